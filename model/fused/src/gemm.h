// Matrix products on blocks: weights are broadcast, sequences fill the lanes.
#pragma once
#include "simd.h"

#if defined(__AVX512F__)
constexpr int kRows = 6, kGroup = 4, kGradCols = 4;  // 24 accumulators of 32 registers
#elif defined(__AVX__)
constexpr int kRows = 6, kGroup = 1, kGradCols = 2;  // 12 of 16
#else
constexpr int kRows = 3, kGroup = 1, kGradCols = 2;
#endif

inline int64_t packed_size(int64_t rows, int64_t columns) {
  return (rows + kRows - 1) / kRows * kRows * columns;
}

// Lay a matrix out as the product reads it: [tile of kRows][column][row in tile], padded with zeros.
// `row_step` and `column_step` choose between the matrix and its transpose.
template <class T>
void pack(T* packed, const T* matrix, int64_t rows, int64_t columns, int64_t row_step,
          int64_t column_step, int64_t first_column = 0, int64_t all_columns = 0) {
  if (all_columns == 0) all_columns = columns;
  for (int64_t tile = 0; tile * kRows < rows; ++tile)
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t r = 0; r < kRows; ++r) {
        const int64_t row = tile * kRows + r;
        packed[(tile * all_columns + first_column + c) * kRows + r] =
            row < rows ? matrix[row * row_step + c * column_step] : T(0);
      }
}

enum class Begin { kZero, kBias, kAdd };

template <class T, int NB>
inline void product_tile(const T* __restrict w, int64_t columns, const T* __restrict x,
                         int64_t x_step, T* __restrict y, int64_t y_step, int valid,
                         const T* bias, Begin begin) {
  constexpr int W = kWidth<T>, L = kLanes<T>;
  Vec<T> sums[kRows][NB][kPieces];
  for (int r = 0; r < kRows; ++r)
    for (int b = 0; b < NB; ++b)
      for (int p = 0; p < kPieces; ++p) {
        sums[r][b][p] = Vec<T>{};
        if (r < valid && begin == Begin::kBias) sums[r][b][p] = all(bias[r]);
        if (r < valid && begin == Begin::kAdd)
          sums[r][b][p] = *vectors(y + b * y_step + r * L + p * W);
      }
  for (int64_t c = 0; c < columns; ++c) {
    Vec<T> v[NB][kPieces];
#pragma GCC unroll 8
    for (int b = 0; b < NB; ++b)
#pragma GCC unroll 8
      for (int p = 0; p < kPieces; ++p) v[b][p] = *vectors(x + b * x_step + c * L + p * W);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec<T> weight = all(w[c * kRows + r]);
#pragma GCC unroll 8
      for (int b = 0; b < NB; ++b)
#pragma GCC unroll 8
        for (int p = 0; p < kPieces; ++p) sums[r][b][p] += weight * v[b][p];
    }
  }
  for (int r = 0; r < kRows && r < valid; ++r)
    for (int b = 0; b < NB; ++b)
      for (int p = 0; p < kPieces; ++p) *vectors(y + b * y_step + r * L + p * W) = sums[r][b][p];
}

// y = W x (+ bias, or added to y) for `blocks` blocks; steps are distances between blocks, in values.
template <class T>
void product(const T* packed, int64_t rows, int64_t columns, const T* x, int64_t x_step, T* y,
             int64_t y_step, int64_t blocks, Begin begin = Begin::kZero, const T* bias = nullptr) {
  int64_t b = 0;
  auto sweep = [&](auto size) {
    constexpr int NB = decltype(size)::value;
    for (; b + NB <= blocks; b += NB)
      for (int64_t row = 0; row < rows; row += kRows)
        product_tile<T, NB>(packed + row * columns, columns, x + b * x_step, x_step,
                            y + b * y_step + row * kLanes<T>, y_step,
                            int(rows - row < kRows ? rows - row : kRows),
                            bias ? bias + row : nullptr, begin);
  };
  if constexpr (kGroup > 1) sweep(std::integral_constant<int, kGroup>{});
  if constexpr (kGroup > 2) sweep(std::integral_constant<int, 2>{});
  sweep(std::integral_constant<int, 1>{});
}

// Panels of several time steps, one after another wherever they lie.
template <class T> struct Panels {
  const T* const* at;  // [steps]
  int64_t block_step;
};

inline int64_t outer_scratch(int64_t columns, int64_t steps, int64_t blocks) {
  return (columns + kGradCols - 1) / kGradCols * kGradCols * steps * blocks * kBlockBytes;
}

// Keeps the compiler from loading the value anew for each of its uses.
template <class T> inline Vec<T> in_register(Vec<T> value) {
#if defined(__x86_64__)
  asm("" : "+v"(value));
#endif
  return value;
}

// gradient[r][c] += sum over steps, blocks and lanes of a[r] b[c]: register tiles whose lanes are
// summed once for all steps. `b` is first copied tile by tile, as it will be read again and again.
// Rows and columns past the end are read (buffers are padded) and left out.
template <class T>
void outer_product(T* gradient, int64_t leading, const Panels<T>& a, int64_t rows,
                   const Panels<T>& b, int64_t columns, int64_t steps, int64_t blocks, T* tiles) {
  constexpr int W = kWidth<T>, L = kLanes<T>, R = kRows, C = kGradCols;
  const int64_t tile_size = steps * blocks * C * L;
  for (int64_t s = 0; s < steps; ++s)
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t column = 0; column < columns; column += C)
        for (int i = 0; i < C * L; i += W)
          *vectors(tiles + column / C * tile_size + (s * blocks + block) * C * L + i) =
              *vectors(b.at[s] + block * b.block_step + column * L + i);
  for (int64_t row = 0; row < rows; row += R)
    for (int64_t column = 0; column < columns; column += C) {
      Vec<T> sums[R][C] = {};
      const T* right = tiles + column / C * tile_size;
      for (int64_t s = 0; s < steps; ++s)
        for (int64_t block = 0; block < blocks; ++block, right += C * L) {
          const T* left = a.at[s] + block * a.block_step + row * L;
          if (column == 0)  // the next tile of rows
            for (int r = R; r < 2 * R; ++r) __builtin_prefetch(left + r * L, 0, 2);
#pragma GCC unroll 8
          for (int p = 0; p < kPieces; ++p) {
            Vec<T> v[C];
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) v[c] = *vectors(right + c * L + p * W);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
              const Vec<T> u = in_register<T>(*vectors(left + r * L + p * W));
#pragma GCC unroll 8
              for (int c = 0; c < C; ++c) sums[r][c] += u * v[c];
            }
          }
        }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c)
          if (row + r < rows && column + c < columns)
            gradient[(row + r) * leading + column + c] += sum_lanes<T>(sums[r][c]);
    }
}
