// Keys and values that change with a cell's age: made anew for each step, of the projections that
// cells left.
#pragma once
#include "norm.h"

// The windows that a step's blocks look back at, oldest row first. Rows lie as blocks do, in panels
// [block][row][feature][lane], so that norms take the one for the other.
template <class T> struct AgedWindow {
  static constexpr int L = kLanes<T>, W = kWidth<T>;
  const Plan<T>& plan;
  T* panels[2];     // keys and values, before their norms
  T* gradients[2];  // of these, after their norms and then before
  T* running;       // [block][row][lane]: 1 where a sequence has this step
  Moments<T> moments[2];
  Range<T> range{};
  int64_t oldest = 0, rows = 0;

  explicit AgedWindow(const Plan<T>& plan) : plan(plan) {}

  void lay_out(Arena& arena, bool backward) {
    if (!plan.p.position) return;
    const int64_t most = plan.widest_range() * plan.K;
    for (auto& piece : panels) piece = arena.take<T>(most * plan.H * L);
    for (auto& piece : gradients) piece = backward ? arena.take<T>(most * plan.H * L) : nullptr;
    running = arena.take<T>(most * L);
  }

  void enter(int64_t t, const Range<T>& blocks) {
    oldest = plan.oldest(t);
    rows = plan.R + t - oldest;
    range = {blocks.first, blocks.blocks * rows, running};
    for (int64_t b = 0; b < blocks.blocks; ++b)
      for (int64_t j = 0; j < rows; ++j)
        std::copy_n(blocks.active + b * L, L, running + (b * rows + j) * L);
    with_activation(plan.p.activation, [&](auto a) {
      each([&](int site, int64_t at, int64_t before, T position, int64_t) {
        const T* store = site == kKey ? plan.keys_at : plan.values_at;
        *vectors(panels[site] + at) =
            activate<T, decltype(a)::value>(*vectors(store + before) + position);
      });
    });
  }

  // A head's keys or values after their norm, [row][D][lane].
  void take_head(int site, int64_t block, int64_t head, T* to) const {
    const Norm<T>& norm = plan.norms[kAgedKey + site];
    for (int64_t d = 0; d < plan.D; ++d) {
      const int64_t f = d * plan.N + head;
      const T weight = norm.kind == kNoNorm ? T(1) : norm.weight[f];
      const T bias = norm.bias ? norm.bias[f] : T(0);
      for (int64_t j = 0; j < rows; ++j) {
        const int64_t row = block * rows + j;
        for (int i = 0; i < L; i += W) {
          Vec<T> value = *vectors(panels[site] + (row * plan.H + f) * L + i);
          if (norm.kind != kNoNorm) value = moments[site].centred(value, row, f, i) * weight + bias;
          *vectors(to + (j * plan.D + d) * L + i) = value;
        }
      }
    }
  }

  // Backward: the gradient of a head's keys or values is by[row] vector[d].
  void give_head(int site, int64_t block, int64_t head, const T* by, const T* vector) {
    for (int64_t j = 0; j < rows; ++j)
      for (int64_t d = 0; d < plan.D; ++d) {
        const int64_t at = ((block * rows + j) * plan.H + d * plan.N + head) * L;
        for (int i = 0; i < L; i += W)
          *vectors(gradients[site] + at + i) =
              *vectors(by + j * L + i) * *vectors(vector + d * L + i);
      }
  }

  // Backward through activation and age: adds to the gradients of projections, and of what each
  // slot's age adds (a vector of lanes each).
  void leave(T* d_keys, T* d_values, Vec<T>* d_position) const {
    with_activation(plan.p.activation, [&](auto a) {
      each([&](int site, int64_t at, int64_t before, T position, int64_t slot) {
        const Vec<T> value = *vectors((site == kKey ? plan.keys_at : plan.values_at) + before);
        const Vec<T> active = *vectors(panels[site] + at);
        const Vec<T> g = *vectors(gradients[site] + at) *
                         slope<T, decltype(a)::value>(value + position, active);
        *vectors((site == kKey ? d_keys : d_values) + before) += g;
        d_position[slot] += g;
      });
    });
  }

 private:
  // Call work(site, place in panels, place in the store, what age adds, its place) for each vector.
  template <class Work> void each(const Work& work) const {
    const T* position = static_cast<const T*>(plan.p.position);
    for (int64_t b = 0; b < range.blocks / rows; ++b)
      for (int site : {kKey, kValue})
        for (int64_t n = 0; n < plan.N; ++n) {
          const int64_t run = plan.run(range.first + b, n, oldest);
          for (int64_t j = 0; j < rows; ++j)
            for (int64_t d = 0; d < plan.D; ++d) {
              const int64_t f = d * plan.N + n;
              const int64_t slot = ((plan.K - rows + j) * 2 + site) * plan.H + f;
              const int64_t at = ((b * rows + j) * plan.H + f) * L;
              for (int i = 0; i < L; i += W)
                work(site, at + i, run + (j * plan.D + d) * L + i, position[slot], slot);
            }
        }
  }
};
