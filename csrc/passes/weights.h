// The parameters as the products want them, and the arguments of the gates computed from them.

#pragma once

#include "passes/plan.h"
#include "passes/sequence.h"
#include "simd/product.h"

namespace brc::BRC_ISA {

// Parameters of several gates, (K, H) each, as they lie in memory.
struct Matrices {
  const void* of_gate[BRC_GATES];
  int64_t strides[2];
};

template <class Cell>
Matrices kernel_matrices(const brc_layer& layer) {
  Matrices found{{}, {layer.kernel_strides[0], layer.kernel_strides[1]}};
  for (int gate = 0; gate < Cell::shape.input_gates; ++gate)
    found.of_gate[Cell::shape.kernel_place[gate]] = layer.kernel[gate];
  return found;
}

template <class Cell>
Matrices memory_matrices(const brc_layer& layer) {
  Matrices found{{}, {layer.memory_strides[0], layer.memory_strides[1]}};
  for (int gate = 0; gate < Cell::shape.memory_gates; ++gate)
    found.of_gate[gate] = layer.memory[gate];
  return found;
}

// to[r * ld + c] = from[r * row_stride + c * column_stride].
template <class T>
void copy_block(int64_t rows, int64_t columns, const T* from, int64_t row_stride,
                int64_t column_stride, T* to, int64_t ld) {
  if (column_stride == 1) {
    for (int64_t r = 0; r < rows && columns > 0; ++r)
      std::memcpy(to + r * ld, from + r * row_stride, size_t(columns) * sizeof(T));
    return;
  }
  // Of what is read by columns, four rows of four columns at a time.
  const int64_t whole_rows = row_stride == 1 ? rows / 4 * 4 : 0, whole_columns = columns / 4 * 4;
  for (int64_t c = 0; c < whole_columns; c += 4)
    for (int64_t r = 0; r < whole_rows; r += 4) {
      const auto block = transposed(load_all<4, 4>(from + r + c * column_stride, column_stride));
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) store<4>(to + (r + i) * ld + c, block[i]);
    }
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t r = c < whole_columns ? whole_rows : 0; r < rows; ++r)
      to[r * ld + c] = from[r * row_stride + c * column_stride];
}

// Packs the gates' parameters side by side as a right factor (K, gates * P); the columns that pad a
// gate from H to P are zero.
template <class T, class Plan>
void pack(int64_t K, int64_t gates, const Plan& plan, const Matrices& parameters, T* packed) {
  const int64_t H = plan.hidden, P = plan.width;
  for_each_panel<T>(gates * P, [&](auto width, auto vectors, int64_t first) {
    constexpr int64_t columns = width.value * vectors.value;
    if (H < P || first + columns > gates * P)
      std::memset(packed, 0, size_t(K * columns) * sizeof(T));
    for (int64_t column = first, end = first; column < first + columns; column = end) {
      const int64_t gate = column / P, unit = column % P;  // up to `end` they are of one gate
      end = (gate + 1) * P < first + columns ? (gate + 1) * P : first + columns;
      if (gate == gates) break;  // the panel's own padding
      const int64_t units = H - unit < end - column ? H - unit : end - column;
      const auto [of_row, of_column] = parameters.strides;
      copy_block(K, units, static_cast<const T*>(parameters.of_gate[gate]) + unit * of_column,
                 of_row, of_column, packed + column - first, columns);
    }
    packed += K * columns;
  });
}

// Packs its transpose (gates * P, K); the rows that pad a gate are zero.
template <class T, class Plan>
void pack_transposed(int64_t K, int64_t gates, const Plan& plan, const Matrices& parameters,
                     T* packed) {
  const int64_t H = plan.hidden, P = plan.width;
  for_each_panel<T>(K, [&](auto width, auto vectors, int64_t first) {
    constexpr int64_t columns = width.value * vectors.value;
    std::memset(packed, 0, size_t(gates * P * columns) * sizeof(T));
    const auto [of_row, of_column] = parameters.strides;
    for (int64_t gate = 0; gate < gates; ++gate)
      copy_block(H, K - first < columns ? K - first : columns,
                 static_cast<const T*>(parameters.of_gate[gate]) + first * of_row, of_column, of_row,
                 packed + gate * P * columns, columns);
    packed += gates * P * columns;
  });
}

// The right factors and vectors of the forward pass.
template <class T, class Cell>
struct Weights {
  static constexpr CellShape shape = Cell::shape;
  T* kernel;  // packed (I, input gates * P)
  T* memory;  // matrix: packed (H, memory gates * P); otherwise (memory gates * P)
  T* bias;    // (ld_arguments), zero where there is none

  Weights(Arena& arena, const Plan<T, Cell>& plan)
      : kernel(arena.take<T>(plan.input, plan.ld_kernel)),
        memory(arena.take<T>(shape.memory_is_matrix ? plan.hidden : 1, plan.ld_memory)),
        bias(arena.take<T>(plan.ld_arguments)) {}

  void fill(const brc_layer& layer, const Plan<T, Cell>& plan) const {
    pack(plan.input, shape.input_gates, plan, kernel_matrices<Cell>(layer), kernel);
    if constexpr (shape.memory_is_matrix)
      pack(plan.hidden, shape.memory_gates, plan, memory_matrices<Cell>(layer), memory);
    fill_vectors(layer, plan);
  }

  // Only what is no matrix: one row at one step reads these where they lie.
  void fill_vectors(const brc_layer& layer, const Plan<T, Cell>& plan) const {
    const int64_t H = plan.hidden, P = plan.width;
    if constexpr (!shape.memory_is_matrix)
      for (int gate = 0; gate < shape.memory_gates; ++gate)
        copy_row(H, static_cast<const T*>(layer.memory[gate]), layer.memory_strides[1],
                 memory + gate * P, P);
    for (int64_t j = 0; j < plan.ld_arguments; ++j) bias[j] = 0;
    for (int gate = 0; gate < shape.input_gates; ++gate)
      add(H, static_cast<const T*>(layer.bias[gate]), bias + shape.kernel_place[gate] * P);
    for (int gate = 0; gate < shape.memory_gates; ++gate)
      add(H, static_cast<const T*>(layer.memory_bias[gate]),
          bias + (shape.first_memory_gate + gate) * P);
  }

  // The memory of the units from j on, where it is no matrix.
  template <int N>
  Vectors<T, N, shape.memory_gates> of_units(const Plan<T, Cell>& plan, int64_t j) const {
    if constexpr (shape.memory_is_matrix) return {};
    return load_all<N, shape.memory_gates>(memory + j, plan.width);
  }

 private:
  static void add(int64_t count, const T* from, T* to) {
    for (int64_t i = 0; from && i < count; ++i) to[i] += from[i];
  }
};

// The arguments of `count` rows without the memory's part: x U + bias, (count, ld_arguments).
template <class T, class Cell>
void project(const Plan<T, Cell>& plan, const Weights<T, Cell>& weights, int64_t count,
             const T* input, int64_t ld_input, T* arguments) {
  constexpr CellShape shape = Cell::shape;
  product<Left::rows, Right::packed>(count, shape.input_gates * plan.width, plan.input, input,
                                     ld_input, weights.kernel, 0, weights.bias, 0, arguments,
                                     plan.ld_arguments);
  if constexpr (shape.gates > shape.input_gates) {
    const int64_t first = shape.input_gates * plan.width;
    for (int64_t r = 0; r < count; ++r)
      std::memcpy(arguments + r * plan.ld_arguments + first, weights.bias + first,
                  size_t(plan.ld_arguments - first) * sizeof(T));
  }
}

// Adds to the arguments of one row what `gates` parameters, not packed, contribute.
template <class T, class Plan>
void add_in_place(int64_t K, int64_t gates, const Plan& plan, const Matrices& parameters,
                  const T* row, T* arguments) {
  for (int64_t gate = 0; gate < gates; ++gate)
    add_row_product<T>(plan.hidden, K, row,
                       {static_cast<const T*>(parameters.of_gate[gate]), parameters.strides[0],
                        parameters.strides[1]},
                       arguments + gate * plan.width);
}

// The same as `project` for one row and a layer whose parameters are not packed.
template <class T, class Cell>
void project_in_place(const Plan<T, Cell>& plan, const Weights<T, Cell>& weights,
                      const brc_layer& layer, const T* input, T* arguments) {
  std::memcpy(arguments, weights.bias, size_t(plan.ld_arguments) * sizeof(T));
  add_in_place(plan.input, Cell::shape.input_gates, plan, kernel_matrices<Cell>(layer), input,
               arguments);
}

// Adds the memory's part, h W, where it is a matrix.
template <class T, class Cell>
void add_memory(const Plan<T, Cell>& plan, const Weights<T, Cell>& weights, int64_t count,
                const T* states, T* arguments) {
  constexpr CellShape shape = Cell::shape;
  if constexpr (shape.memory_is_matrix && shape.memory_gates > 0) {
    T* const of_memory = arguments + shape.first_memory_gate * plan.width;
    product<Left::rows, Right::packed>(count, shape.memory_gates * plan.width, plan.hidden, states,
                                       plan.ld_states, weights.memory, 0, of_memory,
                                       plan.ld_arguments, of_memory, plan.ld_arguments);
  }
}

// The same for one row and a layer whose parameters are not packed.
template <class T, class Cell>
void add_memory_in_place(const Plan<T, Cell>& plan, const brc_layer& layer, const T* states,
                         T* arguments) {
  constexpr CellShape shape = Cell::shape;
  if constexpr (shape.memory_is_matrix)
    add_in_place(plan.hidden, shape.memory_gates, plan, memory_matrices<Cell>(layer), states,
                 arguments + shape.first_memory_gate * plan.width);
}

}  // namespace brc::BRC_ISA
