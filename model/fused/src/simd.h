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
  return x == x ? (V)((Bits<float>)p + ((Bits<float>)shifted << 23)) : x;
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
  return x == x ? (V)((Bits<double>)p + ((Bits<double>)shifted << 52)) : x;
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

// The normal distribution function: erfc(z) / 2 at z = |x| / sqrt(2) below the mean, 1 less that above.
// log(erfc(z) e^(z^2) / t) is smooth over 0 < t = 2 / (2 + z) <= 1: these are its Chebyshev coefficients.
constexpr double kTail[] = {
    -0.65132685989085472, 0.64196979235649027,    0.019476473204185827,   -0.0095615147868086239,
    -9.4659534448204220e-4, 3.6683949785276140e-4, 4.2523324806907019e-5, -2.0278578112537517e-5,
    -1.6242900046409817e-6, 1.3036558355722257e-6, 1.5626441732020310e-8, -8.5238095915822184e-8,
    6.5290544501542700e-9,  5.0593434851282488e-9, -9.9136414744732158e-10, -2.2736512931626366e-10,
    9.6467915521914257e-11, 2.3940364192152593e-12, -6.8860288126667357e-12, 8.9449206326098907e-13,
    3.1308545908256432e-13, -1.1269948508083574e-13, 3.7092841818209364e-16, 7.1169482846699971e-15};
template <class T> inline Vec<T> normal_share(Vec<T> x) {
  constexpr int count = sizeof(T) == sizeof(float) ? 10 : sizeof kTail / sizeof *kTail;
  const Vec<T> z = (x < T(0) ? -x : x) * T(0.7071067811865476);
  const Vec<T> t = T(2) / (T(2) + z);
  const Vec<T> y = T(4) * t - T(2);
  Vec<T> sum = all(T(0)), before = sum;  // Clenshaw's recurrence
  for (int i = count - 1; i > 0; --i) {
    const Vec<T> next = y * sum - before + T(kTail[i]);
    before = sum;
    sum = next;
  }
  const Vec<T> tail = t * exp_of(T(0.5) * y * sum - before + T(kTail[0]) - z * z) * T(0.5);
  return x < T(0) ? tail : T(1) - tail;
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
