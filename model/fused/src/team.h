// A team of threads for one call, and the barrier at which they meet.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <future>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

// While it lives, this thread's numbers too small to be normal (of floats, those below 1e-38) are 0.
// Gradients fade into them over many steps, and each operation on one takes a hundred times as long.
class FlushSubnormals {
#if defined(__SSE__)
 public:
  FlushSubnormals() { _mm_setcsr(before_ | 0x8040); }  // results to 0, and operands as 0
  ~FlushSubnormals() { _mm_setcsr(before_); }

 private:
  const unsigned before_ = _mm_getcsr();
#elif defined(__aarch64__)
 public:
  FlushSubnormals() { set(before_ | uint64_t{1} << 24); }
  ~FlushSubnormals() { set(before_); }

 private:
  static uint64_t get() {
    uint64_t control;
    asm volatile("mrs %0, fpcr" : "=r"(control));
    return control;
  }
  static void set(uint64_t control) { asm volatile("msr fpcr, %0" : : "r"(control)); }
  const uint64_t before_ = get();
#endif
};

// Waiters spin for a moment (the others are usually microseconds away), then sleep: another process
// may hold a core, and spinning would keep the last thread from it.
class Barrier {
 public:
  explicit Barrier(int size) : size_(size) {}

  void wait() {
    if (size_ == 1) return;
    const int turn = turn_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      arrived_.store(0, std::memory_order_relaxed);
      std::lock_guard<std::mutex> hold(mutex_);
      turn_.store(turn + 1, std::memory_order_release);
      everyone_.notify_all();
      return;
    }
    for (int spin = 0; spin < kSpins; ++spin) {
      if (turn_.load(std::memory_order_acquire) != turn) return;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
    std::unique_lock<std::mutex> hold(mutex_);
    everyone_.wait(hold, [&] { return turn_.load(std::memory_order_acquire) != turn; });
  }

 private:
  static constexpr int kSpins = 2000;
  const int size_;
  std::atomic<int> arrived_{0}, turn_{0};
  std::mutex mutex_;
  std::condition_variable everyone_;
};

// Run work(0), ..., work(size - 1) at the same time; the caller is number 0. Threads live for one call
// (tens of microseconds to start): nothing of ours idles beside PyTorch's own, and forks are safe.
// Nobody begins before all exist: where one cannot be started, std::system_error, and nothing was done.
template <class Work> void run_team(int size, const Work& work) {
  std::promise<bool> complete;
  const std::shared_future<bool> go = complete.get_future().share();
  std::vector<std::thread> others;
  const auto run = [&work](int number) {
    const FlushSubnormals flush;
    work(number);
  };
  const auto join = [&] {
    for (auto& other : others) other.join();
  };
  try {
    for (int number = 1; number < size; ++number)
      others.emplace_back([&run, go, number] {
        if (go.get()) run(number);
      });
  } catch (...) {
    complete.set_value(false);
    join();
    throw;
  }
  complete.set_value(true);
  run(0);
  join();
}
