// Keys and values that change with a cell's age: made anew for each step, of the projections that
// cells left.
#pragma once
#include "norm.h"

// The windows that some blocks look back at in one step, oldest row first. A norm needs whole rows:
// all heads' are made first, in panels [block][row][feature][lane], so that norms take rows as they
// take blocks. Without a norm, a head's are made when it looks.
template <class T> struct AgedWindow {
  static constexpr int L = kLanes<T>, W = kWidth<T>;
  const Plan<T>& plan;
  T* heads[2];       // a head's keys and values [row][D][lane], see `take_head`
  T* panels[2];      // of all heads, before their norms
  T* gradients[2];   // of these, after their norms and then before
  T* present;        // [block][row][lane]: 1 where a sequence has this step
  Range<T> range{};  // of rows
  Moments<T> moments[2];
  int64_t first = 0, oldest = 0, rows = 0;
  // Backward: of projections, laid out as keys and values are, and of what each slot's age adds (a
  // vector of lanes each).
  T* d_stored[2];
  Vec<T>* d_position;

  explicit AgedWindow(const Plan<T>& plan) : plan(plan) {}

  void lay_out(Arena& arena, bool backward) {
    if (!plan.p.position) return;
    for (auto& piece : heads) piece = arena.take<T>(plan.K * plan.D * L);
    if (!has_norms()) return;
    // More than one block at once only where a batch's moments need them all.
    const bool together = plan.norms[kAgedKey].kind == kBatchNorm && plan.in_step();
    const int64_t most = (together ? plan.widest_range() : 1) * plan.K;
    for (auto& piece : panels) piece = arena.take<T>(most * plan.H * L);
    for (auto& piece : gradients) piece = backward ? arena.take<T>(most * plan.H * L) : nullptr;
    present = arena.take<T>(most * L);
  }

  bool has_norms() const { return plan.norms[kAgedKey].kind != kNoNorm; }

  // Begin with a step's windows; with norms, all of their keys and values are made now.
  void enter(int64_t t, const Range<T>& blocks) {
    first = blocks.first;
    oldest = plan.oldest(t);
    rows = plan.R + t - oldest;
    if (!has_norms()) return;
    range = {0, blocks.blocks * rows, present};
    for (int64_t b = 0; b < blocks.blocks; ++b) {
      for (int64_t j = 0; j < rows; ++j)
        std::copy_n(blocks.active + b * L, L, present + (b * rows + j) * L);
      for (int64_t n = 0; n < plan.N; ++n)
        for (int site : {kKey, kValue})
          age(site, first + b, n, [&](const Place& at) { return panels[site] + at.panel; });
    }
  }

  // A head's keys or values, after their norm.
  const T* take_head(int site, int64_t block, int64_t head) {
    T* const to = heads[site];
    const Norm<T>& norm = plan.norms[kAgedKey + site];
    if (!has_norms()) {
      age(site, block, head, [&](const Place& at) { return to + at.head; });
      return to;
    }
    each(block, head, [&](const Place& at) {
      for (int i = 0; i < L; i += W) {
        const Vec<T> value = *vectors(panels[site] + at.panel + i);
        *vectors(to + at.head + i) = normalised(norm, moments[site], value, at.row, at.f, i);
      }
    });
    return to;
  }

  // Backward: the gradient of the head's keys or values that were taken last is by[row] vector[d].
  void give_head(int site, int64_t block, int64_t head, const T* by, const T* vector) {
    if (has_norms()) {
      each(block, head, [&](const Place& at) {
        for (int i = 0; i < L; i += W)
          *vectors(gradients[site] + at.panel + i) =
              *vectors(by + at.j * L + i) * *vectors(vector + at.d * L + i);
      });
    } else {
      leave_head(site, block, head, [&](const Place& at, int i) {
        return std::pair(*vectors(by + at.j * L + i) * *vectors(vector + at.d * L + i),
                         *vectors(heads[site] + at.head + i));
      });
    }
  }

  // Backward, once the gradients are those before the norms.
  void leave() {
    for (int64_t b = 0; b < range.blocks / rows; ++b)
      for (int64_t n = 0; n < plan.N; ++n)
        for (int site : {kKey, kValue})
          leave_head(site, first + b, n, [&](const Place& at, int i) {
            return std::pair(*vectors(gradients[site] + at.panel + i),
                             *vectors(panels[site] + at.panel + i));
          });
  }

 private:
  // Feature d of a head in row j: where it lies in all that has rows.
  struct Place {
    int64_t j, d, f, row;        // f: of all heads' features; row: of all blocks'
    int64_t panel, head, stored;
  };
  template <class Work> void each(int64_t block, int64_t head, const Work& work) const {
    const int64_t run = plan.run(block, head, oldest);
    for (int64_t j = 0; j < rows; ++j)
      for (int64_t d = 0; d < plan.D; ++d) {
        const int64_t f = d * plan.N + head, row = (block - first) * rows + j;
        const int64_t of_head = (j * plan.D + d) * L;
        work(Place{j, d, f, row, (row * plan.H + f) * L, of_head, run + of_head});
      }
  }
  int64_t slot(int site, const Place& at) const {
    return ((plan.K - rows + at.j) * 2 + site) * plan.H + at.f;
  }

  // Projections as their age changes them: act(stored + what the age adds).
  template <class To> void age(int site, int64_t block, int64_t head, const To& to) const {
    const T* stored = site == kKey ? plan.keys_at : plan.values_at;
    const T* position = static_cast<const T*>(plan.p.position);
    with_activation(plan.p.activation, [&](auto a) {
      each(block, head, [&](const Place& at) {
        __builtin_prefetch(stored + at.stored + plan.head_step(), 0, 2);
        const T shift = position[slot(site, at)];
        for (int i = 0; i < L; i += W)
          *vectors(to(at) + i) =
              activate<T, decltype(a)::value>(*vectors(stored + at.stored + i) + shift);
      });
    });
  }
  // Back through `age`; `get` gives the result's gradient, and the result.
  template <class Get> void leave_head(int site, int64_t block, int64_t head, const Get& get) {
    const T* stored = site == kKey ? plan.keys_at : plan.values_at;
    const T* position = static_cast<const T*>(plan.p.position);
    with_activation(plan.p.activation, [&](auto a) {
      each(block, head, [&](const Place& at) {
        __builtin_prefetch(d_stored[site] + at.stored + plan.head_step(), 1, 2);
        const T shift = position[slot(site, at)];
        Vec<T> sum{};
        for (int i = 0; i < L; i += W) {
          const auto [gradient, active] = get(at, i);
          const Vec<T> before = *vectors(stored + at.stored + i) + shift;
          const Vec<T> g = gradient * slope<T, decltype(a)::value>(before, active);
          *vectors(d_stored[site] + at.stored + i) += g;
          sum += g;
        }
        d_position[slot(site, at)] += sum;
      });
    });
  }
};
