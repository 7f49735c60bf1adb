// Vectors, nonlinearities, products and packing, for every instruction set of this processor.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "tests/arithmetic.h"
#include "tests/check.h"

namespace brc::tests {
namespace {

template <class T>
constexpr const char* name_of = sizeof(T) == 8 ? "double" : "float";

// More precise than a T, if the platform has anything that is.
template <class T>
using Exact = std::conditional_t<sizeof(T) == 8, long double, double>;

// The distance of y from the exact value, in units of the last place of a T there.
template <class T>
double error_in_ulp(T y, Exact<T> exact) {
  if (std::isnan(exact)) return std::isnan(y) ? 0 : HUGE_VAL;
  const auto magnitude = std::max<Exact<T>>(std::abs(exact), std::numeric_limits<T>::min());
  const int exponent = std::ilogb(magnitude);
  return double(std::abs(y - exact) /
                std::ldexp(Exact<T>(1), exponent - std::numeric_limits<T>::digits + 1));
}

// Numbers over the whole range of a T: `count` bit patterns, both signs, the ends.
template <class T>
std::vector<T> sample(int count) {
  using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
  constexpr T ends[] = {0, 1, std::numeric_limits<T>::min(), std::numeric_limits<T>::max(),
                        std::numeric_limits<T>::infinity(), std::numeric_limits<T>::quiet_NaN()};
  const T infinity = std::numeric_limits<T>::infinity();
  Bits last;
  std::memcpy(&last, &infinity, sizeof last);
  const Bits stride = last / Bits(count) | 1;
  std::vector<T> numbers;
  for (Bits bits = 0; bits <= last - stride; bits += stride) {
    T x;
    std::memcpy(&x, &bits, sizeof x);
    if (x >= std::numeric_limits<T>::min()) numbers.insert(numbers.end(), {x, -x});
  }
  for (const T x : ends) numbers.insert(numbers.end(), {x, -x});
  for (int i = -20000; i <= 20000; ++i) numbers.push_back(T(i) / 1000);  // where they bend
  while (numbers.size() % 64) numbers.push_back(0);
  return numbers;
}

// The largest error of a nonlinearity, and where it is; below `low` it only has to be next to zero.
template <class T>
void check_nonlinearity(Checks& checks, int set, const char* name, void (*compute)(const T*, T*),
                        double bound, T low, Exact<T> (*exact)(T)) {
  const std::vector<T> numbers = sample<T>(2'000'000 / checks.every);
  std::vector<T> values(numbers.size());
  const int lanes = arithmetic_of<T>(set).lanes;
  for (std::size_t i = 0; i < numbers.size(); i += std::size_t(lanes))
    compute(&numbers[i], &values[i]);
  double worst = 0;
  std::size_t at = 0;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (numbers[i] < low) {
      checks.that(values[i] >= 0 && values[i] <= 2 * std::exp(low), "set %d, %s of %s: %a at %a",
                  set, name, name_of<T>, double(values[i]), double(numbers[i]));
      continue;
    }
    const double error = error_in_ulp(values[i], exact(numbers[i]));
    if (error > worst) worst = error, at = i;
  }
  checks.that(worst <= bound, "set %d, %s of %s: %g ulp at %a, where it is %a; at most %g", set,
              name, name_of<T>, worst, double(numbers[at]), double(values[at]), bound);
}

template <class T>
void check_nonlinearities(Checks& checks, int set, double tanh_bound, double sigmoid_bound) {
  const Arithmetic<T>& vectors = arithmetic_of<T>(set);
  const T infinity = std::numeric_limits<T>::infinity();
  check_nonlinearity<T>(checks, set, "tanh", vectors.tanh, tanh_bound, -infinity,
                        [](T x) { return std::tanh(Exact<T>(x)); });
  const T overflow = sizeof(T) == 8 ? -708 : -87;  // of exp(-x)
  check_nonlinearity<T>(checks, set, "sigmoid", vectors.sigmoid, sigmoid_bound, overflow,
                        [](T x) { return 1 / (1 + std::exp(-Exact<T>(x))); });
}

template <class T>
void check_lanes(Checks& checks, int set) {
  const Arithmetic<T>& vectors = arithmetic_of<T>(set);
  const T infinity = std::numeric_limits<T>::infinity();
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const int lanes = vectors.lanes;
  std::vector<T> x(static_cast<std::size_t>(lanes)), y(x.size());
  for (const T value : {nan, infinity, -infinity, T(-3), T(0.5)}) {
    std::fill(x.begin(), x.end(), value);
    vectors.clamp(x.data(), -1, 2, y.data());
    for (const T clamped : y)
      checks.that(std::isnan(value) ? std::isnan(clamped)
                                    : clamped == std::min(std::max(value, T(-1)), T(2)),
                  "set %d, %g clamped to -1 ... 2 is %g", set, double(value), double(clamped));
    for (int count = 0; count <= lanes + 1; ++count) {
      vectors.first_lanes(count, x.data(), y.data());
      for (int i = 0; i < lanes; ++i) {
        const T want = i < count ? value : 0;
        checks.that(std::memcmp(&y[std::size_t(i)], &want, sizeof(T)) == 0,
                    "set %d, lane %d of the first %d of %g is %g", set, i, count, double(value),
                    double(y[std::size_t(i)]));
      }
    }
  }
  for (std::int64_t n = 0; n < 4 * lanes; ++n) {
    const std::int64_t padded = vectors.padded(n);
    checks.that(padded >= n && padded < n + lanes && padded % (lanes < 4 ? lanes : 2) == 0,
                "set %d: %ld padded to %ld", set, long(n), long(padded));
  }
}

// Draws normal numbers, the same each time.
template <class T>
class Normal {
 public:
  std::vector<T> operator()(std::int64_t count) {
    std::vector<T> numbers(static_cast<std::size_t>(count));
    for (T& x : numbers) x = T(normal_(random_));
    return numbers;
  }

 private:
  std::mt19937 random_{1};
  std::normal_distribution<double> normal_;
};

// Every way for the factors to lie, all sizes around a tile's; nothing but the result is written.
template <class T>
void check_products(Checks& checks, int set) {
  const Arithmetic<T>& vectors = arithmetic_of<T>(set);
  Normal<T> draw;
  const double tolerance = 100 * double(std::numeric_limits<T>::epsilon());
  for (const std::int64_t M : {0, 1, 3, 4, 5, 9, 10, 19})
    for (const std::int64_t N : {1, 2, 5, 8, 17, 24, 31, 48, 70})
      for (const std::int64_t K : {0, 1, 7, 40})
        for (int options = 0; options < 12; ++options) {
          const bool columns = options & 1, row_major = options & 2;
          const int init = options / 4;  // none, one row, each its own
          const std::int64_t padded = vectors.padded(N), lda = (columns ? M : K) + 3;
          const std::int64_t ldb = padded + 2, ldc = padded + 5;
          const std::vector<T> a = draw((columns ? K : M) * lda), b = draw(K * N + 1);
          // One gate of N units, as the right factor wants it.
          std::vector<T> right(std::size_t((K + 1) * ldb), 0);
          const void* const parameter = b.data();
          const std::int64_t strides[] = {N, 1};
          if (row_major)
            for (std::int64_t k = 0; k < K; ++k)
              std::copy_n(&b[std::size_t(k * N)], N, &right[std::size_t(k * ldb)]);
          else
            vectors.pack(K, 1, N, &parameter, strides, right.data());
          const std::vector<T> first = draw((M + 1) * ldc);
          const T untouched = 12345;
          std::vector<T> c(std::size_t((M + 1) * ldc), untouched);
          const std::int64_t ld_init = init == 2 ? ldc : 0;
          // What is packed has whole vectors for each gate.
          vectors.product[columns][row_major](M, row_major ? N : padded, K, a.data(), lda,
                                              right.data(), ldb, init ? first.data() : nullptr, ld_init, c.data(),
                                              ldc);
          for (std::int64_t m = 0; m <= M; ++m)
            for (std::int64_t n = 0; n < ldc; ++n) {
              const double got = double(c[std::size_t(m * ldc + n)]);
              if (m == M || n >= padded) {
                checks.that(got == double(untouched),
                            "set %d, %s product %ld x %ld x %ld, options %d: wrote %g at %ld, %ld",
                            set, name_of<T>, long(M), long(N), long(K), options, got, long(m),
                            long(n));
                continue;
              }
              if (n >= N) continue;
              double want = init ? double(first[std::size_t(m * ld_init + n)]) : 0, scale = 1;
              for (std::int64_t k = 0; k < K; ++k) {
                const double term = double(a[std::size_t(columns ? k * lda + m : m * lda + k)]) *
                                    double(b[std::size_t(k * N + n)]);
                want += term;
                scale += std::abs(term);
              }
              checks.that(std::abs(got - want) <= tolerance * scale,
                          "set %d, %s product %ld x %ld x %ld, options %d: %g instead of %g at "
                          "%ld, %ld",
                          set, name_of<T>, long(M), long(N), long(K), options, got, want, long(m),
                          long(n));
            }
        }
}

// A row times what lies by rows, by columns or apart gives the bits of the product with it packed, and
// no more than N columns are written.
template <class T>
void check_row_products(Checks& checks, int set) {
  const Arithmetic<T>& vectors = arithmetic_of<T>(set);
  for (const std::int64_t N : {1, 3, 4, 16, 23, 41})
    for (const std::int64_t K : {0, 1, 4, 5, 18, 33, 100}) {
      Normal<T> draw;
      const std::vector<T> a = draw(K), b = draw(K * N), first = draw(vectors.padded(N) + 1);
      std::vector<T> packed(std::size_t((K + 1) * vectors.padded(N))), want = first;
      const void* const parameter = b.data();
      const std::int64_t dense[] = {N, 1};
      vectors.pack(K, 1, N, &parameter, dense, packed.data());
      vectors.product[0][0](1, vectors.padded(N), K, a.data(), K, packed.data(), 0, want.data(), 0,
                            want.data(), vectors.padded(N));
      std::copy(first.begin() + N, first.end(), want.begin() + N);
      const std::int64_t all_strides[][2] = {{N, 1}, {1, K}, {2 * N, 2}};
      for (const auto& [of_k, of_n] : all_strides) {
        std::vector<T> lies(b.size() * 2), c = first;
        for (std::int64_t k = 0; k < K; ++k)
          for (std::int64_t n = 0; n < N; ++n)
            lies[std::size_t(k * of_k + n * of_n)] = b[std::size_t(k * N + n)];
        vectors.add_row_product(N, K, a.data(), lies.data(), of_k, of_n, c.data());
        checks.that(c == want, "set %d, %s: a row times %ld x %ld that lie %ld and %ld apart", set,
                    name_of<T>, long(K), long(N), long(of_k), long(of_n));
      }
    }
}

// Several gates side by side, in memory that lies by rows or by columns: a product with ones sums
// each column, and padding sums to nothing.
template <class T>
void check_packing(Checks& checks, int set) {
  const Arithmetic<T>& vectors = arithmetic_of<T>(set);
  for (const std::int64_t H : {1, 3, 4, 8, 11, 16, 37})
    for (const std::int64_t K : {1, 5, 18})
      for (const std::int64_t gates : {1, 2, 3, 4})
        for (const int options : {0, 1, 2, 3}) {
          const bool transposed = options & 1, by_columns = options & 2;
          const std::int64_t P = vectors.padded(H), all = gates * H;
          const std::int64_t strides[] = {by_columns ? 1 : all, by_columns ? K : 1};
          std::vector<T> parameters(std::size_t(K * all));
          for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i] = T(i % 97 + 1);
          const void* of_gates[4] = {};
          for (std::int64_t gate = 0; gate < gates; ++gate)
            of_gates[gate] = &parameters[std::size_t(gate * H * strides[1])];
          const std::int64_t rows = transposed ? gates * P : K;
          const std::int64_t columns = transposed ? K : gates * P;
          const std::int64_t ld = vectors.padded(columns);
          std::vector<T> packed(std::size_t(rows * ld), std::numeric_limits<T>::quiet_NaN());
          (transposed ? vectors.pack_transposed : vectors.pack)(K, gates, H, of_gates, strides,
                                                                packed.data());
          const std::vector<T> ones(std::size_t(rows), 1);
          std::vector<T> sums(static_cast<std::size_t>(ld));
          vectors.product[0][0](1, columns, rows, ones.data(), rows, packed.data(), 0, nullptr, 0,
                                sums.data(), ld);
          const auto at = [&](std::int64_t row, std::int64_t column) {
            return double(parameters[std::size_t(row * strides[0] + column * strides[1])]);
          };
          for (std::int64_t n = 0; n < ld; ++n) {
            double want = 0;
            if (transposed)
              for (std::int64_t i = 0; n < K && i < all; ++i) want += at(n, i);
            else if (n % P < H && n < gates * P)
              for (std::int64_t k = 0; k < K; ++k) want += at(k, n / P * H + n % P);
            checks.that(double(sums[std::size_t(n)]) == want,
                        "set %d, %s %ld x %ld gates of %ld units packed, options %d: column %ld "
                        "sums to %g, not %g",
                        set, name_of<T>, long(K), long(gates), long(H), options, long(n),
                        double(sums[std::size_t(n)]), want);
          }
        }
}

}  // namespace

void test_simd(Checks& checks) {
  for (int set = 0; set < instruction_set_count(); ++set) {
    const bool fma = arithmetic(set).of_float.has_fma;
    check_nonlinearities<float>(checks, set, fma ? 5 : 3, 3);
    // The exact values may be no more precise than the ones under test.
    const double bound = sizeof(long double) > sizeof(double) ? 3 : 4;
    check_nonlinearities<double>(checks, set, bound, bound);
    check_lanes<float>(checks, set);
    check_lanes<double>(checks, set);
    check_products<float>(checks, set);
    check_products<double>(checks, set);
    check_row_products<float>(checks, set);
    check_row_products<double>(checks, set);
    check_packing<float>(checks, set);
    check_packing<double>(checks, set);
  }
}

}  // namespace brc::tests
