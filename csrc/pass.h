// What the rest of the kernels sees of one instruction set: the stages of a pass over a sequence.

#pragma once

#include <cstddef>
#include <cstdint>

#include "brc.h"

namespace brc {

// first <= i < last.
struct Range {
  std::int64_t first, last;
};

struct Outputs {
  void* output;  // NULL: nobody wants it
  void* last;
  void* gates;
};

// Some batch rows' way through one layer. It goes by chunks of steps; a chunk's gates and states
// are in slot `chunk % 2` while they are needed.
struct Lane {
  const brc_layer* layer;
  Range rows;
  std::int64_t longest_chunk;
  const void* weights;
  void* gates[2];
  void* states[2];
  void* const* below;  // the states of the layer below, or NULL: this one reads its input
  Outputs outputs;
};

// The chunks of a lane, and what it needs of scratch memory, in bytes: the weights, which all rows
// read, and one slot of gates and of states.
struct LaneSizes {
  std::int64_t chunks;
  std::size_t weights, gates, states;
};

struct ForwardPass {
  LaneSizes (*sizes)(const brc_layer&, Range rows, std::int64_t longest_chunk);
  void (*pack)(const brc_layer&, void* weights) noexcept;
  // The two stages of a chunk: what its input contributes to the gates, of all its steps at once;
  // and the states, step by step.
  void (*drive)(const Lane&, std::int64_t chunk) noexcept;
  void (*recur)(const Lane&, std::int64_t chunk) noexcept;
};

// Scratch memory of a backward pass, in bytes: what all threads read, and what each has for itself.
struct Scratch {
  std::size_t weights, own;
};

struct BackwardPass {
  Scratch (*scratch)(const brc_layer&, Range rows);
  void (*pack)(const brc_layer&, void* weights) noexcept;
  void (*run)(const brc_layer&, const brc_gradients&, Range rows, const void* weights,
              void* own) noexcept;
  // Adds the parameters' gradients of all threads, in their order, and writes them out.
  void (*reduce)(const brc_layer&, const brc_gradients&, void* const* own,
                 int threads) noexcept;
};

// For one instruction set; indices: is_double, full_memory.
struct Kernels {
  ForwardPass forward[2][2];
  BackwardPass backward[2][2];
};

}  // namespace brc
