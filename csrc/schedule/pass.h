// What the schedule sees of a cell's kernels for one instruction set: the cell's sizes, and the
// stages of its passes over a sequence.

#pragma once

#include <cstddef>
#include <cstdint>

#include "abi/brc.h"

namespace brc {

// first <= i < last.
struct Range {
  std::int64_t first, last;
};

// What a cell is, apart from its equations.
struct CellShape {
  int gates;                    // side by side, those with a kernel first
  int input_gates;              // gates with a kernel
  int kernel_place[BRC_GATES];  // where each of them is here, in the order they have outside
  int first_memory_gate;        // gates with a memory: this one and those that follow, as outside
  int memory_gates;
  bool memory_is_matrix;  // (H, H) for each of them; or (H): a unit sees only its own state
  int states;             // the first is the output
  int saved;              // quantities of a unit that the backward pass needs; the last of them
                          // are the states after the step, without the first
  double step_cost;       // a unit's nonlinearities and the rest, in multiply-adds
};

// Some batch rows' way through one layer. It goes by chunks of steps; a chunk's arguments and
// states are in the buffers `chunk % 2` while they are needed.
struct LayerRows {
  const brc_layer* layer;
  Range rows;
  std::int64_t longest_chunk;
  const void* weights;
  void* arguments[2];
  void* states[2];
  void* const* below;  // the states of the layer below, or NULL: this one reads its input
  void* output;        // NULL: nobody wants it
  void* last[BRC_STATES];
  void* saved;
};

// The chunks of some rows, and what they need of scratch memory, in bytes: the weights, which all
// rows read, and one buffer of arguments and of states.
struct ForwardSizes {
  std::int64_t chunks;
  std::size_t weights, arguments, states;
};

struct ForwardPass {
  const CellShape* cell;
  ForwardSizes (*sizes)(const brc_layer&, Range rows, std::int64_t longest_chunk);
  void (*pack)(const brc_layer&, void* weights) noexcept;
  // The two stages of a chunk: what its input contributes to the arguments, of all its steps at
  // once; and the states, step by step.
  void (*project)(const LayerRows&, std::int64_t chunk) noexcept;
  void (*step)(const LayerRows&, std::int64_t chunk) noexcept;
};

// Scratch memory of a backward pass, in bytes: what all threads read, and what each has for itself.
struct BackwardSizes {
  std::size_t weights, own;
};

struct BackwardPass {
  const CellShape* cell;
  BackwardSizes (*sizes)(const brc_layer&, Range rows);
  void (*pack)(const brc_layer&, void* weights) noexcept;
  void (*run)(const brc_layer&, const brc_gradients&, Range rows, const void* weights,
              void* own) noexcept;
  // Adds the parameters' gradients of all threads, in their order, and writes them out.
  void (*reduce)(const brc_layer&, const brc_gradients&, void* const* own, int threads) noexcept;
};

// A cell's kernels; the index is `is_double`.
struct CellKernels {
  const char* name;
  ForwardPass forward[2];
  BackwardPass backward[2];
};

// All cells' kernels for one instruction set.
struct Kernels {
  const CellKernels* cells;
  int count;
};

}  // namespace brc
