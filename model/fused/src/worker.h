// What forward and backward share: one thread's place in the team, its clock of barriers, its norms.
#pragma once
#include "aged.h"
#include "team.h"

template <class T> struct Worker {
  static constexpr int L = kLanes<T>, W = kWidth<T>;
  const Plan<T>& plan;
  const Exchange<T>& exchange;
  Barrier& barrier;
  const int thread;
  int turn = 0;         // barriers passed
  Range<T> range{};
  T *ends, *active;     // [block][lane]: steps of each sequence (0: none there); 1 where it runs
  T* of_feature[kSites];  // [2,H]
  T* of_lane[kSites];     // [block or row of a window][2][lane]
  AgedWindow<T> window;
  T* scores[2];           // [K][lane]

  Worker(const Plan<T>& plan, const Exchange<T>& exchange, Barrier& barrier, int thread)
      : plan(plan), exchange(exchange), barrier(barrier), thread(thread), window(plan) {}

  void lay_out(Arena& arena, bool backward) {
    const int64_t width = plan.widest_range();
    ends = arena.take<T>(width * L);
    active = arena.take<T>(width * L);
    for (int s = 0; s < kSites; ++s) {
      of_feature[s] = arena.take<T>(2 * plan.H);
      of_lane[s] = arena.take<T>((s >= kAgedKey ? plan.K : width) * 2 * L);  // a block apart
    }
    window.lay_out(arena, backward);
    for (auto& piece : scores) piece = arena.take<T>(plan.K * L);
  }

  void enter(int64_t first, int64_t blocks) {
    range = {first, blocks, active};
    for (int64_t i = 0; i < blocks * L; ++i) {
      const int64_t sequence = first * L + i;
      const bool there = sequence < plan.B;
      ends[i] = T(!there ? 0 : plan.p.lengths ? plan.p.lengths[sequence] : plan.T_);
    }
  }
  void at_step(int64_t t) {
    for (int64_t i = 0; i < range.blocks * L; ++i) active[i] = ends[i] > T(t) ? T(1) : T(0);
  }

  // Lanes without a sequence at this step become 0, in cells, hidden states and their gradients. Nobody
  // reads them, but under a norm by others' moments they would grow step by step, and inf * 0 is NaN.
  void silence(T* panels, int64_t step) const {
    for (int64_t b = 0; b < range.blocks; ++b) {
      const T* lanes = active + b * L;
      if (std::find(lanes, lanes + L, T(0)) == lanes + L) continue;
      for (int64_t f = 0; f < plan.H; ++f)
        for (int i = 0; i < L; i += W) {
          Vec<T>* value = vectors(panels + b * step + f * L + i);
          *value = *vectors(lanes + i) > T(0) ? *value : Vec<T>{};
        }
    }
  }

  // Moments of one site at one step, over these blocks or rows of windows. `announce` before the
  // meeting, `agree` after it.
  void announce(int site, int64_t step, const T* panel, int64_t panel_step, const Range<T>& over) {
    if (plan.norms[site].measures(step))
      measure(exchange.slot(turn, site, thread), panel, panel_step, plan.H, over);
  }
  Moments<T> agree(int site, int64_t step, const T* panel, int64_t panel_step,
                   const Range<T>& over) {
    const Norm<T>& norm = plan.norms[site];
    if (norm.measures(step)) {
      merge_moments(of_feature[site], exchange, turn - 1, site);
      if (thread == 0)
        std::copy_n(of_feature[site], 2 * plan.H, norm.moments + step * 2 * plan.H);
      return {of_feature[site], nullptr, plan.H};
    }
    return known(site, step, panel, panel_step, over);
  }
  // Moments that need no other thread: as stored, or of each sequence's own features.
  Moments<T> known(int site, int64_t step, const T* panel, int64_t panel_step,
                   const Range<T>& over) {
    const Norm<T>& norm = plan.norms[site];
    if (norm.kind == kBatchNorm) {
      Moments<T> stored{norm.moments + step * 2 * plan.H, nullptr, plan.H};
      if (!norm.measures(step)) stored.bound = norm.bound;
      return stored;
    }
    if (norm.kind == kLayerNorm)
      for (int64_t b = 0; b < over.blocks; ++b)
        measure_features(of_lane[site] + b * 2 * L, panel + b * panel_step, plan.H);
    return {nullptr, of_lane[site], plan.H};
  }
  // Whether keys or values take the batch's own moments; `key` is their first site.
  bool memory_measures(int key, int64_t row) const {
    return plan.norms[key].measures(row) || plan.norms[key + kValue].measures(row);
  }
  // Call work(range of blocks) for blocks whose windows are made together.
  template <class Work> void groups(int64_t t, const Work& work) const {
    const bool apart = plan.p.position && !memory_measures(kAgedKey, plan.R + t - 1);
    const int64_t wide = apart ? 1 : range.blocks;
    for (int64_t b = 0; b < range.blocks; b += wide)
      work(Range<T>{range.first + b, wide, active + b * L});
  }
  // Let all threads catch up, where one of them waits for the others' sums.
  void meet(bool needed) {
    if (!needed) return;
    barrier.wait();
    ++turn;
  }
};
