// The norms, forward and backward, over panels [block][feature][lane].
#pragma once
#include <limits>

#include "problem.h"

constexpr double kEpsilon = 1e-5;

// What threads tell each other at a barrier: per site H + H numbers and a count. Two sets, used in
// turns: nobody can be two barriers ahead of a reader.
template <class T> struct Exchange {
  int threads;
  int64_t H;
  T* at;  // [2][site][thread][2H + 1]

  static int64_t size(int threads, int64_t H) { return 2 * kSites * threads * (2 * H + 1); }
  T* slot(int turn, int site, int thread) const {
    return at + (((turn & 1) * kSites + site) * threads + thread) * (2 * H + 1);
  }
};

template <class T> struct Range {
  int64_t first, blocks;  // block numbers
  const T* active;        // [block][lane]: 1 where a sequence has this step, else 0
};

// This range's count, mean and sum of squared deviations, per feature.
template <class T>
void measure(T* slot, const T* panel, int64_t panel_step, int64_t H, const Range<T>& range) {
  constexpr int L = kLanes<T>, W = kWidth<T>;
  T count = 0;
  for (int64_t i = 0; i < range.blocks * L; ++i) count += range.active[i];
  slot[2 * H] = count;
  for (int64_t f = 0; f < H; ++f) {
    Vec<T> sum{}, squares{};
    for (int64_t b = 0; b < range.blocks; ++b)
      for (int i = 0; i < L; i += W)
        sum += *vectors(panel + b * panel_step + f * L + i) * *vectors(range.active + b * L + i);
    const T mean = count > 0 ? sum_lanes<T>(sum) / count : T(0);
    for (int64_t b = 0; b < range.blocks; ++b)
      for (int i = 0; i < L; i += W) {
        const Vec<T> off = *vectors(panel + b * panel_step + f * L + i) - mean;
        squares += off * off * *vectors(range.active + b * L + i);
      }
    slot[f] = mean;
    slot[H + f] = sum_lanes<T>(squares);
  }
}

// All threads' moments into one (Chan et al., 1979): mean and 1/std, [2,H].
template <class T>
void merge_moments(T* result, const Exchange<T>& exchange, int turn, int site) {
  const int64_t H = exchange.H;
  T count = 0;
  for (int i = 0; i < exchange.threads; ++i) count += exchange.slot(turn, site, i)[2 * H];
  for (int64_t f = 0; f < H; ++f) {
    T mean = 0, squares = 0;
    for (int i = 0; i < exchange.threads; ++i) {
      const T* slot = exchange.slot(turn, site, i);
      mean += slot[f] * (slot[2 * H] / count);
    }
    for (int i = 0; i < exchange.threads; ++i) {
      const T* slot = exchange.slot(turn, site, i);
      squares += slot[H + f] + slot[2 * H] * (slot[f] - mean) * (slot[f] - mean);
    }
    result[f] = mean;
    result[H + f] = T(1) / std::sqrt(squares / count + T(kEpsilon));
  }
}

// Layer norm's mean and 1/std of each sequence, [2][lane].
template <class T> void measure_features(T* result, const T* panel, int64_t H) {
  constexpr int L = kLanes<T>, W = kWidth<T>;
  for (int i = 0; i < L; i += W) {
    Vec<T> sum{}, squares{};
    for (int64_t f = 0; f < H; ++f) sum += *vectors(panel + f * L + i);
    const Vec<T> mean = sum / T(H);
    for (int64_t f = 0; f < H; ++f) {
      const Vec<T> off = *vectors(panel + f * L + i) - mean;
      squares += off * off;
    }
    squares = squares / T(H) + T(kEpsilon);
    *vectors(result + i) = mean;
    for (int j = 0; j < W; ++j) result[L + i + j] = T(1) / std::sqrt(squares[j]);
  }
}

// Mean and 1/std as the norm's kind has them: of the feature (batch norm) or of the lane.
template <class T> struct Moments {
  const T* of_feature;  // [2,H], or null
  const T* of_lane;     // [block][2][lane], or null
  int64_t H;
  T bound = std::numeric_limits<T>::infinity();

  Vec<T> centred(Vec<T> value, int64_t block, int64_t f, int i) const {
    if (of_feature) {
      value = distance(value, f);
      value = value > bound ? all(bound) : value;
      return value < -bound ? all(-bound) : value;
    }
    const T* lane = of_lane + block * 2 * kLanes<T> + i;
    return (value - *vectors(lane)) * *vectors(lane + kLanes<T>);
  }
  // From the feature's mean, in standard deviations.
  Vec<T> distance(Vec<T> value, int64_t f) const {
    return (value - of_feature[f]) * of_feature[H + f];
  }
  // Where the bound holds a value, it does not depend on what went in.
  Vec<T> held_back(Vec<T> gradient, Vec<T> value, int64_t f) const {
    if (!of_feature || bound == std::numeric_limits<T>::infinity()) return gradient;
    value = distance(value, f);
    return (value <= bound) & (value >= -bound) ? gradient : Vec<T>{};
  }
  Vec<T> scale(int64_t block, int64_t f, int i) const {
    if (of_feature) return all(of_feature[H + f]);
    return *vectors(of_lane + block * 2 * kLanes<T> + kLanes<T> + i);
  }
};

template <class T>
Vec<T> normalised(const Norm<T>& norm, const Moments<T>& moments, Vec<T> value, int64_t block,
                  int64_t f, int i) {
  if (norm.kind == kNoNorm) return value;
  return moments.centred(value, block, f, i) * norm.weight[f] + (norm.bias ? norm.bias[f] : T(0));
}

template <class T>
void normalise(const Norm<T>& norm, const Moments<T>& moments, const T* from, int64_t from_step,
               T* to, int64_t to_step, int64_t blocks) {
  constexpr int L = kLanes<T>, W = kWidth<T>;
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t f = 0; f < norm.features; ++f)
      for (int i = 0; i < L; i += W)
        *vectors(to + b * to_step + f * L + i) = normalised(
            norm, moments, *vectors(from + b * from_step + f * L + i), b, f, i);
}

// Sums over sequences of the gradient, and of it times the normalised value: into the parameters'
// gradients (vectors over lanes, [2][H]) and, where the batch was measured, into the slot.
template <class T>
void gradient_sums(const Norm<T>& norm, const Moments<T>& moments, const T* from, int64_t from_step,
                   const T* gradient, int64_t gradient_step, int64_t blocks, Vec<T>* parameters,
                   T* slot) {
  constexpr int L = kLanes<T>, W = kWidth<T>;
  const int64_t H = norm.features;
  for (int64_t f = 0; f < H; ++f) {
    Vec<T> sum{}, product{};
    for (int64_t b = 0; b < blocks; ++b)
      for (int i = 0; i < L; i += W) {
        const Vec<T> g = *vectors(gradient + b * gradient_step + f * L + i);
        sum += g;
        product += g * moments.centred(*vectors(from + b * from_step + f * L + i), b, f, i);
      }
    parameters[f] += product;
    parameters[H + f] += sum;
    if (slot) {
      slot[f] = sum_lanes<T>(sum);
      slot[H + f] = sum_lanes<T>(product);
    }
  }
}

// Add up the threads' gradient sums, divided by how many sequences were measured: [2,H].
template <class T>
void merge_gradients(T* result, const Exchange<T>& exchange, int turn, int site, T count) {
  for (int64_t f = 0; f < 2 * exchange.H; ++f) {
    T sum = 0;
    for (int i = 0; i < exchange.threads; ++i) sum += exchange.slot(turn, site, i)[f];
    result[f] = sum / count;
  }
}

// The gradient before the norm, in place. `means` is null unless the batch was measured.
template <class T>
void normalise_back(const Norm<T>& norm, const Moments<T>& moments, const T* means, const T* from,
                    int64_t from_step, T* gradient, int64_t gradient_step, const Range<T>& range) {
  constexpr int L = kLanes<T>, W = kWidth<T>;
  const int64_t H = norm.features;
  for (int64_t b = 0; b < range.blocks; ++b)
    for (int i = 0; i < L; i += W) {
      const T* value = from + b * from_step + i;
      T* g = gradient + b * gradient_step + i;
      Vec<T> mean{}, product{};
      if (norm.kind == kLayerNorm) {
        for (int64_t f = 0; f < H; ++f) {
          const Vec<T> weighted = *vectors(g + f * L) * norm.weight[f];
          mean += weighted;
          product += weighted * moments.centred(*vectors(value + f * L), b, f, i);
        }
        mean /= T(H);
        product /= T(H);
      }
      const Vec<T> active = *vectors(range.active + b * L + i);
      for (int64_t f = 0; f < H; ++f) {
        Vec<T> result = *vectors(g + f * L) * norm.weight[f];
        if (norm.kind == kLayerNorm)
          result -= mean + product * moments.centred(*vectors(value + f * L), b, f, i);
        if (means) {
          const Vec<T> centred = moments.centred(*vectors(value + f * L), b, f, i);
          result -= norm.weight[f] * (means[f] + centred * means[H + f]) * active;
        }
        result = moments.held_back(result, *vectors(value + f * L), f);
        *vectors(g + f * L) = result * moments.scale(b, f, i);
      }
    }
}
