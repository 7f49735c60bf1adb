// Compiled once for each instruction set, as passes/kernels.cpp is.

#include "tests/arithmetic.h"

#include "cells/cells.h"
#include "passes/weights.h"

namespace brc::BRC_ISA {
namespace {

template <class T>
using V = Vector<T, lanes<T>>;

template <class T>
void apply_tanh(const T* x, T* y) {
  store<lanes<T>>(y, tanh<T, lanes<T>>(load<lanes<T>>(x)));
}

template <class T>
void apply_sigmoid(const T* x, T* y) {
  store<lanes<T>>(y, sigmoid<T, lanes<T>>(load<lanes<T>>(x)));
}

template <class T>
void apply_clamp(const T* x, T low, T high, T* y) {
  store<lanes<T>>(y, clamp<lanes<T>>(load<lanes<T>>(x), low, high));
}

template <class T>
void apply_first_lanes(int64_t count, const T* x, T* y) {
  store<lanes<T>>(y, first_lanes<T, lanes<T>>(count, load<lanes<T>>(x)));
}

template <class T>
Plan<T, Nbrc> plan_of(int64_t H) {
  brc_layer layer{};
  layer.steps = 1;
  layer.hidden_size = H;
  return {layer, {0, 0}};
}

Matrices matrices(int64_t gates, const void* const* parameters, const int64_t* strides) {
  Matrices found{{}, {strides[0], strides[1]}};
  for (int64_t gate = 0; gate < gates; ++gate) found.of_gate[gate] = parameters[gate];
  return found;
}

template <class T>
void pack_gates(int64_t K, int64_t gates, int64_t H, const void* const* parameters,
                const int64_t* strides, T* packed) {
  pack(K, gates, plan_of<T>(H), matrices(gates, parameters, strides), packed);
}

template <class T>
void pack_gates_transposed(int64_t K, int64_t gates, int64_t H, const void* const* parameters,
                           const int64_t* strides, T* packed) {
  pack_transposed(K, gates, plan_of<T>(H), matrices(gates, parameters, strides), packed);
}

template <class T>
void add_row(int64_t N, int64_t K, const T* a, const T* b, int64_t of_k, int64_t of_n, T* c) {
  add_row_product<T>(N, K, a, {b, of_k, of_n}, c);
}

template <class T, class Cell>
struct OfCell {
  static constexpr CellShape shape = Cell::shape;
  static constexpr int N = lanes<T>;

  static auto gates_of(const T* arguments, const T* memory, const T* before) {
    return Cell::template gates<T, N>(load_all<N, shape.gates>(arguments, N),
                                      load_all<N, shape.memory_gates>(memory, N),
                                      load_all<N, shape.states>(before, N));
  }

  static void step(const T* arguments, const T* memory, const T* before, T* after, T* saved) {
    const auto gates = gates_of(arguments, memory, before);
    const auto next = Cell::template step<T, N>(gates, load_all<N, shape.states>(before, N));
    const auto quantities = Cell::template save<T, N>(gates, next);
    for (int s = 0; s < shape.states; ++s) store<N>(after + s * N, next[s]);
    for (int i = 0; i < shape.saved; ++i) store<N>(saved + i * N, quantities[i]);
  }

  static void differentiate(bool recalls, const T* arguments, const T* memory, const T* before,
                            const T* after, const T* saved, T* grad_states, T* grad_arguments) {
    const auto states = load_all<N, shape.states>(before, N);
    const auto gates =
        recalls ? Cell::template recall<T, N>(load_all<N, shape.saved>(saved, N), states,
                                              load_all<N, shape.states>(after, N))
                : gates_of(arguments, memory, before);
    auto grad = load_all<N, shape.states>(grad_states, N);
    const auto of_arguments = Cell::template differentiate<T, N>(
        gates, load_all<N, shape.memory_gates>(memory, N), states, grad);
    for (int s = 0; s < shape.states; ++s) store<N>(grad_states + s * N, grad[s]);
    for (int i = 0; i < shape.gates; ++i) store<N>(grad_arguments + i * N, of_arguments[i]);
  }

  static constexpr tests::CellArithmetic<T> functions{Cell::name, &Cell::shape, step,
                                                      differentiate};
};

template <class T, class List>
struct OfCells;

template <class T, class... Cells>
struct OfCells<T, CellList<Cells...>> {
  static constexpr tests::CellArithmetic<T> all[] = {OfCell<T, Cells>::functions...};
  static constexpr int count = sizeof...(Cells);
};

template <class T>
constexpr tests::Arithmetic<T> functions{
    lanes<T>,
    has_fma,
    apply_tanh<T>,
    apply_sigmoid<T>,
    apply_clamp<T>,
    apply_first_lanes<T>,
    padded<T>,
    {{product<Left::rows, Right::packed, T>, product<Left::rows, Right::row_major, T>},
     {product<Left::columns, Right::packed, T>, product<Left::columns, Right::row_major, T>}},
    add_row<T>,
    pack_gates<T>,
    pack_gates_transposed<T>,
    OfCells<T, AllCells>::all,
    OfCells<T, AllCells>::count};

}  // namespace

extern const tests::AllArithmetic arithmetic;
const tests::AllArithmetic arithmetic{functions<float>, functions<double>};

}  // namespace brc::BRC_ISA
