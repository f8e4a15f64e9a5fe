// One step's attention over the window, for one head of one block of sequences.
#pragma once
#include "problem.h"

// A batch's windows do not fit the cache, and each head's is too short a run for the processor to see
// it coming: while one head is computed, the rows `ahead` of its own (the next head's) are fetched
// (with positions, while rows are made: aged.h).

// Features of a head are taken a few at a time, so that they stay in registers.
template <class Work> void in_chunks(int64_t features, const Work& work) {
  int64_t d = 0;
  for (; d + 4 <= features; d += 4) work(d, std::integral_constant<int, 4>{});
  switch (features - d) {
    case 1: return work(d, std::integral_constant<int, 1>{});
    case 2: return work(d, std::integral_constant<int, 2>{});
    case 3: return work(d, std::integral_constant<int, 3>{});
    default: return;
  }
}

// scores[j] = sum over d of vector[d] rows[j][d]
template <class T>
void dot_rows(const T* vector, const T* rows, int64_t count, int64_t D, T* scores,
              int64_t ahead) {
  constexpr int L = kLanes<T>, W = kWidth<T>;
  in_chunks(D, [&](int64_t d, auto size) {
    constexpr int C = decltype(size)::value;
    for (int i = 0; i < L; i += W) {
      Vec<T> u[C];
      for (int c = 0; c < C; ++c) u[c] = *vectors(vector + (d + c) * L + i);
      const T* row = rows + d * L + i;
      for (int64_t j = 0; j < count; ++j, row += D * L) {
        Vec<T> sum = d == 0 ? Vec<T>{} : *vectors(scores + j * L + i);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
          __builtin_prefetch(row + c * L + ahead, 0, 2);
          sum += u[c] * *vectors(row + c * L);
        }
        *vectors(scores + j * L + i) = sum;
      }
    }
  });
}

// result[d] = sum over j of weights[j] rows[j][d]; even and odd rows apart, for two chains of sums.
template <class T>
void mix_rows(const T* weights, const T* rows, int64_t count, int64_t D, T* result,
              int64_t ahead) {
  constexpr int L = kLanes<T>, W = kWidth<T>;
  in_chunks(D, [&](int64_t d, auto size) {
    constexpr int C = decltype(size)::value;
    for (int i = 0; i < L; i += W) {
      Vec<T> even[C] = {}, odd[C] = {};
      const T* row = rows + d * L + i;
      int64_t j = 0;
      for (; j + 2 <= count; j += 2, row += 2 * D * L) {
        const Vec<T> w0 = *vectors(weights + j * L + i), w1 = *vectors(weights + (j + 1) * L + i);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
          __builtin_prefetch(row + c * L + ahead, 0, 2);
          even[c] += w0 * *vectors(row + c * L);
        }
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
          __builtin_prefetch(row + (D + c) * L + ahead, 0, 2);
          odd[c] += w1 * *vectors(row + (D + c) * L);
        }
      }
      if (j < count) {
        const Vec<T> w = *vectors(weights + j * L + i);
        for (int c = 0; c < C; ++c) even[c] += w * *vectors(row + c * L);
      }
      for (int c = 0; c < C; ++c) *vectors(result + (d + c) * L + i) = even[c] + odd[c];
    }
  });
}

// Backward, for both at once: d_query[d] = sum over j of d_scores[j] keys[j][d], and
// d_keys[j][d] += d_scores[j] query[d], d_values[j][d] += weights[j] d_mixed[d].
template <class T>
void spread_rows(const T* d_scores, const T* weights, const T* query, const T* d_mixed,
                 const T* keys, int64_t count, int64_t D, T* d_query, T* d_keys, T* d_values,
                 int64_t ahead) {
  constexpr int L = kLanes<T>, W = kWidth<T>;
  in_chunks(D, [&](int64_t d, auto size) {
    constexpr int C = decltype(size)::value;
    for (int i = 0; i < L; i += W) {
      Vec<T> asked[C], given[C], sums[C] = {};
      for (int c = 0; c < C; ++c) {
        asked[c] = *vectors(query + (d + c) * L + i);
        given[c] = *vectors(d_mixed + (d + c) * L + i);
      }
      int64_t at = d * L + i;
      for (int64_t j = 0; j < count; ++j, at += D * L) {
        const Vec<T> score = *vectors(d_scores + j * L + i), weight = *vectors(weights + j * L + i);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
          __builtin_prefetch(d_keys + at + c * L + ahead, 1, 2);
          __builtin_prefetch(d_values + at + c * L + ahead, 1, 2);
          sums[c] += score * *vectors(keys + at + c * L);
          *vectors(d_keys + at + c * L) += score * asked[c];
          *vectors(d_values + at + c * L) += weight * given[c];
        }
      }
      for (int c = 0; c < C; ++c) *vectors(d_query + (d + c) * L + i) = sums[c];
    }
  });
}

// Scores into weights, and what makes the same weights of the same scores later: the largest score,
// and 1 / sum, by which the weights are still to be multiplied.
template <class T> void soften(T* scores, int64_t count, T* largest_and_share) {
  constexpr int L = kLanes<T>, W = kWidth<T>;
  for (int i = 0; i < L; i += W) {
    Vec<T> largest = *vectors(scores + i);
    for (int64_t j = 1; j < count; ++j) {
      const Vec<T> score = *vectors(scores + j * L + i);
      largest = score > largest ? score : largest;
    }
    Vec<T> sum{};
    for (int64_t j = 0; j < count; ++j) {
      const Vec<T> weight = exp_of(*vectors(scores + j * L + i) - largest);
      sum += weight;
      *vectors(scores + j * L + i) = weight;
    }
    *vectors(largest_and_share + i) = largest;
    *vectors(largest_and_share + L + i) = T(1) / sum;
  }
}
