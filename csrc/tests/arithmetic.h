// What the tests of one instruction set's vectors, products and cells call. Only `arithmetic.cpp`
// is compiled with its flags: an inline function of the standard library must not be, for the
// linker may choose that instance for all.

#pragma once

#include <cstdint>

#include "schedule/pass.h"

namespace brc::tests {

template <class T>
struct CellArithmetic {
  const char* name;
  const CellShape* shape;
  // Of `lanes` units: all arrays hold one number a unit, one array after another.
  void (*step)(const T* arguments, const T* memory, const T* before, T* after, T* saved);
  // `recalls`: the gates from `saved` and the states, instead of from the arguments.
  void (*differentiate)(bool recalls, const T* arguments, const T* memory, const T* before,
                        const T* after, const T* saved, T* grad_states, T* grad_arguments);
};

template <class T>
struct Arithmetic {
  int lanes;
  bool has_fma;
  void (*tanh)(const T* x, T* y);  // `lanes` numbers
  void (*sigmoid)(const T* x, T* y);
  void (*clamp)(const T* x, T low, T high, T* y);
  void (*first_lanes)(std::int64_t count, const T* x, T* y);
  std::int64_t (*padded)(std::int64_t n);
  // c = init + a b; the indices are Left and Right of product.h.
  void (*product[2][2])(std::int64_t M, std::int64_t N, std::int64_t K, const T* a,
                        std::int64_t lda, const T* b, std::int64_t ldb, const T* init,
                        std::int64_t ld_init, T* c, std::int64_t ldc);
  // c += a b for one row; element (k, n) of b at b[k * of_k + n * of_n].
  void (*add_row_product)(std::int64_t N, std::int64_t K, const T* a, const T* b,
                          std::int64_t of_k, std::int64_t of_n, T* c);
  // The gates' parameters, (K, H) each, as the right factor of a product, or its transpose as one.
  void (*pack)(std::int64_t K, std::int64_t gates, std::int64_t H, const void* const* parameters,
               const std::int64_t* strides, T* packed);
  void (*pack_transposed)(std::int64_t K, std::int64_t gates, std::int64_t H,
                          const void* const* parameters, const std::int64_t* strides, T* packed);
  const CellArithmetic<T>* cells;
  int cell_count;
};

struct AllArithmetic {
  Arithmetic<float> of_float;
  Arithmetic<double> of_double;
};

// Of an instruction set, by its place in brc_instruction_sets.
const AllArithmetic& arithmetic(int instruction_set);

template <class T>
const Arithmetic<T>& arithmetic_of(int instruction_set) {
  if constexpr (sizeof(T) == sizeof(double))
    return arithmetic(instruction_set).of_double;
  else
    return arithmetic(instruction_set).of_float;
}

}  // namespace brc::tests
