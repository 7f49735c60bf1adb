// Matrix products that keep a tile of the result in registers.
//
// Symbols: a product is M x K times K x N. The left factor is read one number at a time, the right
// one in panels: up to three vectors of columns that one tile covers.

#pragma once

#include <algorithm>

#include "simd/vector.h"

namespace brc::BRC_ISA {

// A tile of rows x panel_vectors accumulators, three vectors of the right factor and one broadcast
// number fill the registers: 32 with AVX-512, 16 elsewhere. A sum waits for itself, so that a tile of
// few accumulators takes as long as one of `busy`: a narrow panel has more rows, and few rows take
// several panels at once.
constexpr int panel_vectors = 3;
constexpr int busy = 8;
constexpr int most_rows = BRC_VECTOR_BYTES >= 64 ? 9 : 4;
template <int vectors>
constexpr int tile_rows = vectors == 1 && most_rows < busy ? busy : most_rows;
template <int rows>
constexpr int panels_at_once = rows == 1 ? 4 : 2;

// Calls body(Width<W>{}, Width<V>{}, j) for every panel of V vectors of W columns, from column j.
template <class T, class Body>
inline void for_each_panel(int64_t n, Body&& body) {
  constexpr int wide = panel_vectors * lanes<T>;
  int64_t j = 0;
  for (; j + wide <= n; j += wide) body(Width<lanes<T>>{}, Width<panel_vectors>{}, j);
  if (n - j >= 2 * lanes<T>) {
    body(Width<lanes<T>>{}, Width<2>{}, j);
    j += 2 * lanes<T>;
  } else if (n - j >= lanes<T>) {
    body(Width<lanes<T>>{}, Width<1>{}, j);
    j += lanes<T>;
  }
  if (j < n)
    with_tail_width<T, lanes<T>>(tail_width<T>(n - j),
                                 [&](auto width) { body(width, Width<1>{}, j); });
}

// How the factors of a product lie in memory.
enum class Left { rows, columns };      // element (m, k) at a[m * lda + k], or at a[k * lda + m]
enum class Right { packed, row_major };  // panel by panel, or element (k, n) at b[k * ldb + n]

// One tile: c[m][n] = init[m][n] + sum over k of a[m][k] b[k][n], M x (vectors * width). Vectors
// beyond a panel are in the next ones, `next` numbers apart.
// The sum starts at zero, or where one over earlier k has ended (`begun`, rows side by side), and
// meets `init` last, which bounds the rounding of long accumulations.
template <class T, int width, int vectors, int M, Left left>
void tile(int64_t K, const T* a, int64_t lda, const T* b, int64_t ldb, int64_t next, const T* begun,
          const T* init, int64_t ld_init, T* c, int64_t ldc) {
  // The result is then a gradient of weights: if large, it is far away when it is met again.
  if (left == Left::columns)
#pragma GCC unroll 9
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 12
      for (int v = 0; v < vectors; ++v) __builtin_prefetch(c + m * ldc + v * width, 1);
  Vector<T, width> sum[M][vectors] = {};
  if (left == Left::columns && begun)
#pragma GCC unroll 9
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 12
      for (int v = 0; v < vectors; ++v) sum[m][v] = load<width>(begun + (m * vectors + v) * width);
  for (int64_t k = 0; k < K; ++k, b += ldb) {
    Vector<T, width> right[vectors];
#pragma GCC unroll 12
    for (int v = 0; v < vectors; ++v)
      right[v] = load<width>(b + v / panel_vectors * next + v % panel_vectors * width);
#pragma GCC unroll 9
    for (int m = 0; m < M; ++m) {
      const T x = left == Left::rows ? a[m * lda + k] : a[k * lda + m];
#pragma GCC unroll 12
      for (int v = 0; v < vectors; ++v) sum[m][v] += x * right[v];
    }
  }
#pragma GCC unroll 9
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 12
    for (int v = 0; v < vectors; ++v)
      store<width>(c + m * ldc + v * width,
                   init ? load<width>(init + m * ld_init + v * width) + sum[m][v] : sum[m][v]);
}

template <class T>
using Tile = void (*)(int64_t, const T*, int64_t, const T*, int64_t, int64_t, const T*, const T*,
                      int64_t, T*, int64_t);

template <class T, int width, int vectors, Left left>
struct Tiles {  // by_rows[m - 1] has m rows
  static constexpr int most = tile_rows<vectors>;
  static constexpr struct Table {
    Tile<T> by_rows[most];
    constexpr Table() : by_rows{} { fill<most>(); }
    template <int M>
    constexpr void fill() {
      by_rows[M - 1] = tile<T, width, vectors, M, left>;
      if constexpr (M > 1) fill<M - 1>();
    }
  } table{};

  // Calls body(first row, tile) for tiles of about the same height.
  template <class Body>
  static void cover(int64_t M, Body&& body) {
    const int64_t tiles = (M + most - 1) / most;
    const int64_t rows = M / tiles, taller = M % tiles;  // that many tiles have one row more
    for (int64_t i = 0, m = 0; i < tiles; ++i) {
      const int64_t height = rows + (i < taller);
      body(m, table.by_rows[height - 1]);
      m += height;
    }
  }
};

// c = init + a b with a's columns as the left factor's rows, for one panel. The panel and the columns
// stay in the first-level cache for a part of the sum over k at a time.
template <class T, int width, int vectors>
void panel_by_columns(int64_t M, int64_t K, const T* a, int64_t lda, const T* b, int64_t ldb,
                      const T* init, int64_t ld_init, T* c, int64_t ldc) {
  constexpr int64_t most_k = 128, most_m = 8 * tile_rows<vectors>, columns = width * vectors;
  T begun[most_m * columns];
  for (int64_t first = 0; first < M; first += most_m)
    for (int64_t k = 0; k == 0 || k < K; k += most_k) {
      const bool is_last = k + most_k >= K;
      const int64_t rows = M - first < most_m ? M - first : most_m;
      Tiles<T, width, vectors, Left::columns>::cover(rows, [&](int64_t m, Tile<T> tile) {
        T* const own = begun + m * columns;
        const int64_t row = first + m;
        tile(is_last ? K - k : most_k, a + k * lda + row, lda, b + k * ldb, ldb, 0,
             k > 0 ? own : nullptr, is_last && init ? init + row * ld_init : nullptr, ld_init,
             is_last ? c + row * ldc : own, is_last ? ldc : columns);
      });
    }
}

// Several packed panels at once for one or two rows, as many columns as that covers; returns those.
template <class T, int M>
int64_t few_rows(int64_t N, int64_t K, const T* a, int64_t lda, const T* b, const T* init,
                 int64_t ld_init, T* c, int64_t ldc) {
  constexpr int64_t panel = panel_vectors * lanes<T>, columns = panels_at_once<M> * panel;
  int64_t j = 0;
  for (; j + columns <= N; j += columns)
    tile<T, lanes<T>, panels_at_once<M> * panel_vectors, M, Left::rows>(
        K, a, lda, b + j * K, panel, K * panel, nullptr, init ? init + j : nullptr, ld_init, c + j,
        ldc);
  return j;
}

// c = init + a b. `c` and `init` may be the same; ld_init = 0 repeats one row; no init is zero.
// Columns of b, init and c up to padded(N) exist. The order of additions depends on K alone, never
// on M: a row's result is the same whichever rows are computed with it.
template <Left left, Right right, class T>
void product(int64_t M, int64_t N, int64_t K, const T* a, int64_t lda, const T* b, int64_t ldb,
             const T* init, int64_t ld_init, T* c, int64_t ldc) {
  if (M == 0) return;
  int64_t done = 0;
  if constexpr (left == Left::rows && right == Right::packed) {
    if (M == 1) done = few_rows<T, 1>(N, K, a, lda, b, init, ld_init, c, ldc);
    if (M == 2) done = few_rows<T, 2>(N, K, a, lda, b, init, ld_init, c, ldc);
  }
  for_each_panel<T>(N - done, [&](auto width, auto vectors, int64_t from_done) {
    const int64_t j = done + from_done;
    const T* const panel = right == Right::packed ? b + j * K : b + j;
    const int64_t step = right == Right::packed ? width.value * vectors.value : ldb;
    const T* const panel_init = init ? init + j : nullptr;
    if constexpr (left == Left::columns)
      panel_by_columns<T, width.value, vectors.value>(M, K, a, lda, panel, step, panel_init,
                                                      ld_init, c + j, ldc);
    else
      Tiles<T, width.value, vectors.value, left>::cover(M, [&](int64_t m, Tile<T> tile) {
        tile(K, a + m * lda, lda, panel, step, 0, nullptr,
             panel_init ? panel_init + m * ld_init : nullptr, ld_init, c + m * ldc + j, ldc);
      });
  });
}

// A right factor that is read where it lies: element (k, n) at b[k * of_k + n * of_n].
template <class T>
struct InPlace {
  const T* b;
  int64_t of_k, of_n;

  const T* at(int64_t k, int64_t n) const { return b + k * of_k + n * of_n; }
};

// Columns n to n + 4 * blocks of c += a b, where block(k, n) is b's 4 x 4 numbers from there on.
template <int blocks, class T, class Block>
inline void add_columns_of_row(int64_t K, const T* a, const InPlace<T>& b, const Block& block,
                               int64_t n, T* c) {
  Vector<T, 4> sum[blocks] = {};
  int64_t k = 0;
  for (; k + 4 <= K; k += 4)
#pragma GCC unroll 4
    for (int i = 0; i < blocks; ++i) {
      const Vectors<T, 4, 4> rows = block(k, n + 4 * i);
#pragma GCC unroll 4
      for (int row = 0; row < 4; ++row) sum[i] += a[k + row] * rows[row];
    }
  for (; k < K; ++k)
#pragma GCC unroll 4
    for (int i = 0; i < blocks; ++i) {
      const T* const first = b.at(k, n + 4 * i);
      sum[i] += a[k] * Vector<T, 4>{first[0], first[b.of_n], first[2 * b.of_n], first[3 * b.of_n]};
    }
#pragma GCC unroll 4
  for (int i = 0; i < blocks; ++i) {
    T* const to = c + n + 4 * i;
    store<4>(to, load<4>(to) + sum[i]);
  }
}

// c += a b for one row a, N columns. Adds up in the order of `product`.
template <class T>
void add_row_product(int64_t N, int64_t K, const T* a, const InPlace<T>& b, T* c) {
  int64_t n = 0;
  const auto by_blocks = [&](const auto& block) {
    constexpr int blocks = 4;  // enough sums that none is waited for
    for (; n + 4 * blocks <= N; n += 4 * blocks) add_columns_of_row<blocks>(K, a, b, block, n, c);
    for (; n + 4 <= N; n += 4) add_columns_of_row<1>(K, a, b, block, n, c);
  };
  if (b.of_n == 1)
    by_blocks([&](int64_t k, int64_t n) { return load_all<4, 4>(b.at(k, n), b.of_k); });
  else if (b.of_k == 1)
    by_blocks([&](int64_t k, int64_t n) { return transposed(load_all<4, 4>(b.at(k, n), b.of_n)); });
  // In vectors, too: a compiler may take a sum of numbers apart and round its products.
  for (; n < N; n += 4) {
    const int64_t lanes = std::min<int64_t>(4, N - n);
    Vector<T, 4> sum{};
    for (int64_t k = 0; k < K; ++k) {
      Vector<T, 4> row{};
      for (int64_t lane = 0; lane < lanes; ++lane) row[lane] = *b.at(k, n + lane);
      sum += a[k] * row;
    }
    for (int64_t lane = 0; lane < lanes; ++lane) c[n + lane] += sum[lane];
  }
}

}  // namespace brc::BRC_ISA
