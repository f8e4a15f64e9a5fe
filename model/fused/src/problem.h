// What Python hands over for one layer over one sequence, and how the kernel lays out its memory.
#pragma once
#include <algorithm>

#include "gemm.h"

// Where norms are. The caller names five; those of keys and values are at their aged sites instead
// where positions are given.
enum Site : int { kKey, kValue, kAttention, kCell, kHidden, kGivenSites };
constexpr int kAgedKey = kGivenSites, kAgedValue = kAgedKey + 1, kSites = kAgedValue + 1;
constexpr bool of_memory(int site) { return site <= kValue || site >= kAgedKey; }
constexpr int given_site(int site) { return site >= kAgedKey ? site - kAgedKey : site; }
enum NormKind : int64_t { kNoNorm, kBatchNorm, kLayerNorm };

// Mirrors `_Problem` in model/fused/function.py, field by field. Arrays are contiguous, of float or
// double; letters: T time, B batch, I input, H hidden, N heads, K window, R past cells at the start.
struct Problem {
  int64_t value_bytes, threads, T, B, I, H, N, K, R;
  int64_t activation, cell_activation, norm, memory_norm;
  int64_t cells_out;                       // how many of the latest cells are wanted
  int64_t saves;                           // whether what backward needs is to be left
  const void *inputs, *hidden, *queue;     // [T,B,I], [B,H], [R,B,H]
  const void* keep;                        // factors of dropout [T,B,H], or null
  const int64_t* lengths;                  // [B], or null
  const void *input_matrix, *bias;         // [5H,I], [5H]: rows of the query, then of i, f, u, o
  const void* hidden_matrix;               // [5H,H]
  const void *memory_matrix, *memory_bias; // [2H,H], [2H] or null: rows of the key, then the value
  const void* position;                    // what each slot's age adds [K,2H], or null
  const void *attended_matrix, *attended_bias, *gates_matrix;  // [H,H], [H], [4H,H]
  const void *norm_weight[kGivenSites], *norm_bias[kGivenSites];  // [H] each, or null
  void* moments[kGivenSites];            // batch norm: mean and 1/std, [steps,2,H]
  const uint8_t* measured[kGivenSites];  // [steps]: whether the batch's own moments are taken
  double bounds[kGivenSites];  // of 1/std times a value's distance from a mean not measured
  void *output, *cells;        // [T,B,H], [cells_out,B,H]
  void *saved, *scratch;
  // Backward only; gradients of what comes out (null: none), then of what went in.
  const void *d_output, *d_cells;
  void *d_inputs, *d_hidden, *d_queue, *d_input_matrix, *d_bias, *d_hidden_matrix;
  void *d_memory_matrix, *d_memory_bias, *d_position;
  void *d_attended_matrix, *d_attended_bias, *d_gates_matrix;
  void *d_norm_weight[kGivenSites], *d_norm_bias[kGivenSites];
};

// Hands out aligned pieces of one piece of memory; from null it only counts.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}
  template <class T> T* take(int64_t count) {
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    // Matrix products read a few rows past the end of a panel.
    used_ += (count * int64_t(sizeof(T)) + 8 * kBlockBytes + 4095) / 4096 * 4096;
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

template <class T> struct Norm {
  int64_t kind, features;
  const T *weight, *bias;
  T* moments;
  const uint8_t* measured;
  T bound;

  bool measures(int64_t step) const { return kind == kBatchNorm && measured[step]; }
};

// Sizes, typed pointers, and what forward leaves for backward.
template <class T> struct Plan {
  static constexpr int L = kLanes<T>;
  const Problem& p;
  int64_t T_, B, I, H, N, D, K, R, blocks, keys;
  int threads;
  bool keeps_pre;  // keys and values before their activation are saved
  Norm<T> norms[kSites];

  // Saved. Per step and block: query H, gates 4H, mixed values H, ELU(W_o mixed + b_o) H. Without a
  // backward to come, each step writes these, the softmax and the `pre`s over the last one's.
  T *steps, *softmax_at, *cells, *keys_at, *values_at, *memory_pre, *query_pre;

  explicit Plan(const Problem& problem) : p(problem) {
    T_ = p.T, B = p.B, I = p.I, H = p.H, N = p.N, K = p.K, R = p.R;
    D = H / N;
    blocks = (B + L - 1) / L;
    keys = R + T_ - 1;  // nobody looks at the last step's cell
    threads = int(std::clamp<int64_t>(p.threads, 1, blocks));
    keeps_pre = !p.position && (p.memory_norm != kNoNorm || p.activation == kGelu);
    for (int s = 0; s < kSites; ++s) {
      const bool elsewhere = of_memory(s) && (s >= kAgedKey) != (p.position != nullptr);
      const int64_t kind = elsewhere ? kNoNorm : of_memory(s) ? p.memory_norm : p.norm;
      const int g = given_site(s);
      norms[s] = {kind,
                  H,
                  static_cast<const T*>(p.norm_weight[g]),
                  static_cast<const T*>(p.norm_bias[g]),
                  static_cast<T*>(p.moments[g]),
                  p.measured[g],
                  static_cast<T>(p.bounds[g])};
    }
    Arena arena(p.saved);
    lay_out(arena);
  }

  void lay_out(Arena& arena) {
    const int64_t kept = p.saves ? T_ : 1, kept_rows = p.saves ? keys : 1;
    steps = arena.take<T>(kept * blocks * 7 * H * L);
    softmax_at = arena.take<T>(kept * blocks * N * 2 * L);
    cells = arena.take<T>((R + T_) * blocks * H * L);
    keys_at = arena.take<T>(blocks * keys * H * L);
    values_at = arena.take<T>(blocks * keys * H * L);
    memory_pre = keeps_pre ? arena.take<T>(kept_rows * blocks * 2 * H * L) : nullptr;
    query_pre = p.activation == kGelu ? arena.take<T>(kept * blocks * H * L) : nullptr;
  }
  int64_t saved_bytes() {
    Arena arena(nullptr);
    Plan<T> copy(*this);
    copy.lay_out(arena);
    return arena.used();
  }

  // Steps that exchange moments between threads must go in step; otherwise each group of blocks
  // walks through all of time by itself, its window still in the cache.
  bool in_step() const {
    for (int s = 0; s < kSites; ++s) {
      if (norms[s].kind != kBatchNorm) continue;
      const int64_t count = of_memory(s) ? keys : T_;
      if (std::any_of(norms[s].measured, norms[s].measured + count, [](uint8_t m) { return m; }))
        return true;
    }
    return false;
  }
  int64_t widest_range() const {
    const int64_t share = (blocks + threads - 1) / threads;
    return in_step() ? share : std::min<int64_t>(share, kFree);
  }
  // Call work(first block, blocks) for each range of a thread.
  template <class Work> void ranges(int thread, const Work& work) const {
    const int64_t first = blocks * thread / threads, end = blocks * (thread + 1) / threads;
    const int64_t widest = widest_range();
    for (int64_t b = first; b < end; b += widest) work(b, std::min(widest, end - b));
  }

  int64_t place(int64_t time, int64_t block) const { return (p.saves ? time * blocks : 0) + block; }
  T* step(int64_t t, int64_t block) const { return steps + place(t, block) * 7 * H * L; }
  T* softmax(int64_t t, int64_t block, int64_t head) const {
    return softmax_at + (place(t, block) * N + head) * 2 * L;
  }
  T* cell(int64_t row, int64_t block) const { return cells + (row * blocks + block) * H * L; }
  T* pre(int64_t row, int64_t b) const { return memory_pre + place(row, b) * 2 * H * L; }
  T* query(int64_t t, int64_t b) const { return query_pre + place(t, b) * H * L; }
  // Keys and values lie by head, so that a head's window is one run of memory: [block,head,row,D].
  int64_t run(int64_t block, int64_t head, int64_t row) const {
    return ((block * N + head) * keys + row) * D * L;
  }
  int64_t head_step() const { return keys * D * L; }
  int64_t oldest(int64_t t) const { return std::max<int64_t>(0, R + t - K); }

  static constexpr int64_t kFree = 4;
};

// Between the caller's [B, features] and a panel [features][lane]; sequences past the end become 0.
template <class T>
void load_panel(T* panel, const T* rows, int64_t features, int64_t first, int64_t batch,
                bool add = false) {
  constexpr int L = kLanes<T>;
  for (int lane = 0; lane < L; ++lane) {
    if (first + lane >= batch) {
      if (!add)
        for (int64_t f = 0; f < features; ++f) panel[f * L + lane] = T(0);
      continue;
    }
    const T* row = rows + (first + lane) * features;
    if (add)
      for (int64_t f = 0; f < features; ++f) panel[f * L + lane] += row[f];
    else
      for (int64_t f = 0; f < features; ++f) panel[f * L + lane] = row[f];
  }
}
template <class T>
void store_panel(T* rows, const T* panel, int64_t features, int64_t first, int64_t batch) {
  constexpr int L = kLanes<T>;
  for (int lane = 0; lane < L && first + lane < batch; ++lane) {
    T* row = rows + (first + lane) * features;
    for (int64_t f = 0; f < features; ++f) row[f] = panel[f * L + lane];
  }
}
// W for every activation: calls work with its number as a constant.
template <class Work> void with_activation(int64_t activation, const Work& work) {
  switch (activation) {
    case kElu: return work(std::integral_constant<int, kElu>{});
    case kRelu: return work(std::integral_constant<int, kRelu>{});
    case kGelu: return work(std::integral_constant<int, kGelu>{});
    case kTanh: return work(std::integral_constant<int, kTanh>{});
    default: return work(std::integral_constant<int, kNone>{});
  }
}
