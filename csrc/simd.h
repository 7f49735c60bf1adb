// Vectors of a fixed number of lanes, and the two nonlinearities on them.
//
// Written with the vector extension of GCC and Clang, so that one source serves every instruction
// set. Everything lives in a namespace of the instruction set it is compiled for: the linker would
// otherwise merge, say, an AVX-512 and a baseline instance of one template.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace brc::BRC_ISA {

using std::int32_t;
using std::int64_t;
using std::ptrdiff_t;
using std::size_t;

template <class T>
struct Format;

// n = round(z / ln 2) falls out of adding `shift`, a number so large that its last mantissa bit
// is worth 1. ln 2 = ln2_high + ln2_low, the first short enough that n * ln2_high is exact.
// `terms` of the series of exp(r) - 1 leave an error below half a unit in the last place.
template <>
struct Format<float> {
  using Bits = int32_t;
  static constexpr float shift = 0x1.8p23F, ln2_high = 0x1.63p-1F, ln2_low = -0x1.bd0106p-13F;
  static constexpr int mantissa_bits = 23, exponent_bias = 127, terms = 7;
  static constexpr float exp_low = -87, exp_high = 89;  // exp(89) is infinite, as it should be
  static constexpr float tanh_one = 10;                 // from here on tanh rounds to 1
};

template <>
struct Format<double> {
  using Bits = int64_t;
  static constexpr double shift = 0x1.8p52, ln2_high = 0x1.62e4p-1, ln2_low = 0x1.7f7d1cf79abcap-20;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023, terms = 14;
  static constexpr double exp_low = -708, exp_high = 710;
  static constexpr double tanh_one = 20;
};

template <class T, int N>
struct VectorOf {
  using type [[gnu::vector_size(N * sizeof(T))]] = T;
};
template <class T, int N>
using Vector = typename VectorOf<T, N>::type;

template <int N, class T>
inline Vector<T, N> load(const T* from) {
  Vector<T, N> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <int N, class T>
inline void store(T* to, Vector<T, N> v) {
  std::memcpy(to, &v, sizeof v);
}

// The same for the last vector of a row, of which only `count` columns exist; the others read as 0.
template <int N, class T>
inline Vector<T, N> load_first(int64_t count, const T* from) {
  if (count >= N) return load<N>(from);
  Vector<T, N> v = {};
  for (int64_t i = 0; i < count; ++i) v[i] = from[i];
  return v;
}

template <int N, class T>
inline void store_first(int64_t count, T* to, Vector<T, N> v) {
  if (count >= N) return store<N>(to, v);
  for (int64_t i = 0; i < count; ++i) to[i] = v[i];
}

template <int N, class T>
inline Vector<T, N> broadcast(T x) {
  return x - Vector<T, N>{};  // x - 0 is x, -0 and NaN included
}

// exp(z) = scale * (1 + rest), scale a power of two, |rest| < 0.42; exp_low <= z <= exp_high.
template <class T, int N>
struct Exponential {
  Vector<T, N> scale, rest;
};

template <class T, int N>
inline Exponential<T, N> exponential(Vector<T, N> z) {
  using F = Format<T>;
  using Bits = Vector<typename F::Bits, N>;
  constexpr T inverse_ln2 = T(1.44269504088896340736);
  const Vector<T, N> shifted = z * inverse_ln2 + F::shift;
  const Vector<T, N> n = shifted - F::shift;
  const Vector<T, N> r = (z - n * F::ln2_high) - n * F::ln2_low;

  constexpr struct Series {
    T coefficient[F::terms];
    constexpr Series() : coefficient{} {
      T inverse_factorial = 1;
      for (int k = 0; k < F::terms; ++k) coefficient[k] = inverse_factorial /= T(k + 1);
    }
  } series;
  Vector<T, N> rest = broadcast<N>(series.coefficient[F::terms - 1]);
#pragma GCC unroll 16
  for (int k = F::terms - 2; k >= 0; --k) rest = rest * r + series.coefficient[k];
  rest *= r;

  Bits bits;  // the low bits of `shifted` hold n; they become the exponent
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << F::mantissa_bits) + (typename F::Bits(F::exponent_bias) << F::mantissa_bits);
  Vector<T, N> scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return {scale, rest};
}

template <class T, int N>
inline Vector<T, N> sigmoid(Vector<T, N> x) {
  using F = Format<T>;
  Vector<T, N> z = -x;  // comparisons that are false for NaN let it through
  z = z > F::exp_high ? broadcast<N>(F::exp_high) : z;
  z = z < F::exp_low ? broadcast<N>(F::exp_low) : z;
  const auto [scale, rest] = exponential<T, N>(z);
  return T(1) / (T(1) + scale * (T(1) + rest));  // not scale + scale * rest: scale may be infinite
}

template <class T, int N>
inline Vector<T, N> tanh(Vector<T, N> x) {
  using F = Format<T>;
  using Bits = Vector<typename F::Bits, N>;
  constexpr auto sign_bit = typename F::Bits(1) << (sizeof(T) * 8 - 2) << 1;
  Bits bits;
  std::memcpy(&bits, &x, sizeof bits);
  const Bits sign = bits & sign_bit;
  bits ^= sign;
  Vector<T, N> magnitude;
  std::memcpy(&magnitude, &bits, sizeof magnitude);
  magnitude = magnitude > F::tanh_one ? broadcast<N>(F::tanh_one) : magnitude;

  // tanh y = -e / (e + 2) with e = exp(-2y) - 1, which keeps its digits where y is small.
  const auto [scale, rest] = exponential<T, N>(T(-2) * magnitude);
  const Vector<T, N> e = scale * rest + (scale - T(1));
  const Vector<T, N> result = -e / (e + T(2));
  std::memcpy(&bits, &result, sizeof bits);
  bits ^= sign;
  Vector<T, N> signed_result;
  std::memcpy(&signed_result, &bits, sizeof signed_result);
  return signed_result;
}

// Lanes of the widest vector of this instruction set.
template <class T>
constexpr int lanes = BRC_VECTOR_BYTES / int(sizeof(T));

// Lanes of the narrowest vector in use: a quarter of the widest, at least 16 bytes.
template <class T>
constexpr int narrow = (BRC_VECTOR_BYTES >= 64 ? BRC_VECTOR_BYTES / 4 : 16) / int(sizeof(T));

// Width of the vector that takes `rest` columns left over, 0 < rest <= lanes.
template <class T>
constexpr int tail_width(int64_t rest) {
  int width = narrow<T>;
  while (width < rest) width *= 2;
  return width;
}

// Columns that n columns occupy once their last vector is whole.
template <class T>
constexpr int64_t padded(int64_t n) {
  const int64_t rest = n % lanes<T>;
  return rest == 0 ? n : n - rest + tail_width<T>(rest);
}

template <int N>
struct Width {
  static constexpr int value = N;
};

template <class T, int N, class Body>
inline void with_tail_width(int width, Body&& body) {
  if (width == N)
    body(Width<N>{});
  else if constexpr (N > narrow<T>)
    with_tail_width<T, N / 2>(width, body);
}

// Calls body(Width<W>{}, j) for every vector of W columns starting at column j, so that all n are
// covered; the last vector may be narrower, and reaches to padded(n).
template <class T, class Body>
inline void for_each_vector(int64_t n, Body&& body) {
  int64_t j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) body(Width<lanes<T>>{}, j);
  if (j < n) with_tail_width<T, lanes<T>>(tail_width<T>(n - j), [&](auto width) { body(width, j); });
}

}  // namespace brc::BRC_ISA
