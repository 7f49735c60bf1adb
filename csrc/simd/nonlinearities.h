// The sigmoid and the hyperbolic tangent of vectors.

#pragma once

#include <limits>

#include "simd/vector.h"

namespace brc::BRC_ISA {

// What the nonlinearities know of a number format.
//
// n = round(z / ln 2) falls out of adding `shift`, a number so large that its last mantissa bit is
// worth 1, and that exceeds a multiple of 2^9 (float) or 2^12 (double) by the exponent's bias: the
// low bits of the sum are the biased exponent of 2^n.
// ln 2 = ln2_high + ln2_low, the first short enough that n * ln2_high is exact.
// exp(r) = 1 + r times a polynomial in r, |r| <= ln 2 / 2; minimax, of relative error 2e-9 (float)
// and 3e-18 (double). Coefficients stand from that of the highest power down.
template <class T>
struct Format;

template <>
struct Format<float> {
  static constexpr int mantissa_bits = 23;
  static constexpr float shift = 0x1.8p23F + 127, ln2_high = 0x1.63p-1F, ln2_low = -0x1.bd0106p-13F;
  static constexpr float exp[] = {0x1.6ae682p-10F, 0x1.126832p-7F, 0x1.555826p-5F,
                                  0x1.555418p-3F,  0x1.fffffcp-2F, 1};
  static constexpr float exp_low = -87, exp_high = 89;  // exp(89) is infinite, as it should be
  static constexpr float tanh_one = 10;                 // from here on tanh rounds to 1
  // tanh x = x P(x^2) / Q(x^2), |x| <= tanh_limit, where the quotient is exactly 1. The coefficients
  // were the best of a search with every number from 1/4 on: an error of 2.93e-7.
  static constexpr float tanh_limit = 0x1.0135d6p3F;
  static constexpr float tanh_p[] = {0x1.fa9d84p-27F, 0x1.69f00cp-16F, 0x1.d1b124p-9F,
                                     0x1.1306b4p-3F, 1};
  static constexpr float tanh_q[] = {0x1.bf5f3ep-21F, 0x1.627156p-12F, 0x1.ab86fap-6F,
                                     0x1.ded8aep-2F, 1};
};

template <>
struct Format<double> {
  static constexpr int mantissa_bits = 52;
  static constexpr double shift = 0x1.8p52 + 1023, ln2_high = 0x1.62e4p-1,
                          ln2_low = 0x1.7f7d1cf79abcap-20;
  static constexpr double exp[] = {
      0x1.ad6ad5016a252p-26, 0x1.28aff6f6407c7p-22, 0x1.71df3e0c07b14p-19, 0x1.a01996f4da9a0p-16,
      0x1.a01a01168c9bcp-13, 0x1.6c16c185814e7p-10, 0x1.111111112ea05p-7,  0x1.55555555500dep-5,
      0x1.55555555554b7p-3,  0x1.000000000000bp-1,  1};
  static constexpr double exp_low = -708, exp_high = 710;
  static constexpr double tanh_one = 20;
};

template <class T, int N, size_t terms>
inline Vector<T, N> polynomial(const T (&coefficients)[terms], Vector<T, N> x) {
  Vector<T, N> sum = broadcast<N>(coefficients[0]);
  for (size_t k = 1; k < terms; ++k) sum = sum * x + coefficients[k];
  return sum;
}

// exp(z) = scale * (1 + rest), scale a power of two, |rest| < 0.42; exp_low <= z <= exp_high.
template <class T, int N>
struct Exponential {
  Vector<T, N> scale, rest;
};

template <class T, int N>
inline Exponential<T, N> exponential(Vector<T, N> z) {
  using F = Format<T>;
  using Integers = Vector<Bits<T>, N>;
  constexpr T inverse_ln2 = T(1.44269504088896340736);
  const Vector<T, N> shifted = z * inverse_ln2 + F::shift;
  const Vector<T, N> n = shifted - F::shift;
  const Vector<T, N> r = (z - n * F::ln2_high) - n * F::ln2_low;
  const auto scale = bit_cast<Vector<T, N>>(bit_cast<Integers>(shifted) << F::mantissa_bits);
  return {scale, r * polynomial<T, N>(F::exp, r)};
}

template <class T, int N>
inline Vector<T, N> sigmoid(Vector<T, N> x) {
  using F = Format<T>;
  const auto [scale, rest] = exponential<T, N>(clamp<N>(-x, F::exp_low, F::exp_high));
  return T(1) / (T(1) + scale * (T(1) + rest));  // not scale + scale * rest: scale may be infinite
}

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
constexpr bool has_fma = true;
#else
constexpr bool has_fma = false;
#endif

template <class T, int N>
inline Vector<T, N> tanh(Vector<T, N> x) {
  using F = Format<T>;
  if constexpr (has_fma && sizeof(T) == 4) {  // faster; less exact where each sum rounds twice
    x = clamp<N>(x, -F::tanh_limit, F::tanh_limit);
    const Vector<T, N> square = x * x;
    return x * polynomial<T, N>(F::tanh_p, square) / polynomial<T, N>(F::tanh_q, square);
  }
  using Integers = Vector<Bits<T>, N>;
  constexpr auto sign_bit = std::numeric_limits<Bits<T>>::min();
  const Integers sign = bit_cast<Integers>(x) & sign_bit;
  const auto magnitude =
      lesser(broadcast<N>(F::tanh_one), bit_cast<Vector<T, N>>(bit_cast<Integers>(x) ^ sign));

  // tanh y = -e / (e + 2) with e = exp(-2y) - 1, which keeps its digits where y is small.
  const auto [scale, rest] = exponential<T, N>(T(-2) * magnitude);
  const Vector<T, N> e = scale * rest + (scale - T(1));
  return bit_cast<Vector<T, N>>(bit_cast<Integers>(-e / (e + T(2))) ^ sign);
}

}  // namespace brc::BRC_ISA
