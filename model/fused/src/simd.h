// Vectors of the machine's own width, and the functions the cell needs on them.
//
// Everything lies in blocks of 64 bytes: `Lanes<T>` sequences side by side for each feature, so that
// every head size vectorises alike. A block is one AVX-512 register, two of AVX2, four of SSE2.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
constexpr int kBlockBytes = 64;
constexpr int kPieces = kBlockBytes / kVectorBytes;  // vectors of a block

template <class T> struct Simd;
template <> struct Simd<float> {
  typedef float V __attribute__((vector_size(kVectorBytes), may_alias));
  typedef int32_t I __attribute__((vector_size(kVectorBytes), may_alias));
};
template <> struct Simd<double> {
  typedef double V __attribute__((vector_size(kVectorBytes), may_alias));
  typedef int64_t I __attribute__((vector_size(kVectorBytes), may_alias));
};
template <class T> using Vec = typename Simd<T>::V;
template <class T> using Bits = typename Simd<T>::I;
template <class T> constexpr int kLanes = kBlockBytes / int(sizeof(T));
template <class T> constexpr int kWidth = kVectorBytes / int(sizeof(T));

template <class T> inline Vec<T>* vectors(T* values) { return reinterpret_cast<Vec<T>*>(values); }
template <class T> inline const Vec<T>* vectors(const T* values) {
  return reinterpret_cast<const Vec<T>*>(values);
}
template <class T> inline Vec<T> all(T value) { return value - Vec<T>{}; }
template <class T, int N> inline T sum_of(const T* values) {
  if constexpr (N == 1) {
    return values[0];
  } else {  // a vector of half the width: the compiler keeps all of this in registers
    typedef T Half __attribute__((vector_size(N / 2 * sizeof(T)), may_alias, aligned(sizeof(T))));
    const Half sum = *reinterpret_cast<const Half*>(values) +
                     *reinterpret_cast<const Half*>(values + N / 2);
    T folded[N / 2];
    std::memcpy(folded, &sum, sizeof folded);
    return sum_of<T, N / 2>(folded);
  }
}
template <class T> inline T sum_lanes(Vec<T> v) {
  T values[kWidth<T>];
  std::memcpy(values, &v, sizeof values);
  return sum_of<T, kWidth<T>>(values);
}

// exp by x = n ln 2 + r: a Taylor polynomial in |r| <= ln(2)/2, then n added to the exponent. Beyond
// the range in which that exponent exists the result stays at its end; NaN stays NaN.
inline Vec<float> exp_of(Vec<float> x) {
  using V = Vec<float>;
  x = x < -86.0f ? all(-86.0f) : x;
  x = x > 88.0f ? all(88.0f) : x;
  const V shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the low bits now hold n
  const V n = shifted - 12582912.0f;
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = all(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return (V)((Bits<float>)p + ((Bits<float>)shifted << 23));
}
inline Vec<double> exp_of(Vec<double> x) {
  using V = Vec<double>;
  x = x < -700.0 ? all(-700.0) : x;
  x = x > 700.0 ? all(700.0) : x;
  const V shifted = x * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52
  const V n = shifted - 6755399441055744.0;
  const V r = (x - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6;
  constexpr double inverse[] = {1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720,
                                1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800,
                                1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0};
  V p = all(inverse[13]);
  for (int i = 12; i >= 0; --i) p = p * r + inverse[i];
  return (V)((Bits<double>)p + ((Bits<double>)shifted << 52));
}

template <class T> inline Vec<T> sigmoid(Vec<T> x) { return T(1) / (T(1) + exp_of(-x)); }
template <class T> inline Vec<T> tanh_of(Vec<T> x) {
  const Vec<T> size = x < T(0) ? -x : x;
  const Vec<T> e = exp_of(T(-2) * size);
  const Vec<T> result = (T(1) - e) / (T(1) + e);
  return x < T(0) ? -result : result;
}
template <class T> inline Vec<T> elu(Vec<T> x) { return x > T(0) ? x : exp_of(x) - T(1); }
// ELU's derivative, from its result.
template <class T> inline Vec<T> elu_slope(Vec<T> y) { return y > T(0) ? all(T(1)) : y + T(1); }

template <class T> inline Vec<T> normal_share(Vec<T> x) {  // the normal distribution function
  for (int i = 0; i < kWidth<T>; ++i) x[i] = T(0.5) * std::erfc(x[i] * T(-0.7071067811865476));
  return x;
}

enum Activation : int64_t { kNone, kElu, kRelu, kGelu, kTanh };

template <class T, int A> inline Vec<T> activate(Vec<T> x) {
  if constexpr (A == kElu) return elu<T>(x);
  if constexpr (A == kRelu) return x < T(0) ? all(T(0)) : x;
  if constexpr (A == kGelu) return x * normal_share<T>(x);
  if constexpr (A == kTanh) return tanh_of<T>(x);
  return x;
}
// The derivative, from the result y; GELU's from x.
template <class T, int A> inline Vec<T> slope(Vec<T> x, Vec<T> y) {
  if constexpr (A == kElu) return elu_slope<T>(y);
  if constexpr (A == kRelu) return y > T(0) ? all(T(1)) : all(T(0));
  if constexpr (A == kGelu)
    return normal_share<T>(x) + x * T(0.3989422804014327) * exp_of(T(-0.5) * x * x);
  if constexpr (A == kTanh) return T(1) - y * y;
  return all(T(1));
}
