#include "abi/brc.h"

#include <cstdint>
#include <new>
#include <string>

#include "abi/instruction_sets.h"
#include "schedule/environment.h"
#include "schedule/run.h"

namespace brc {
namespace {

const CellKernels& kernels_of(const brc_layer& layer) {
  return instruction_sets().kernels[layer.instruction_set]->cells[layer.cell];
}

std::string names_of_cells() {
  const Kernels& any = *instruction_sets().kernels[0];
  std::string names;
  for (int i = 0; i < any.count; ++i) {
    if (i > 0) names += ',';
    names += any.cells[i].name;
  }
  return names;
}

}  // namespace
}  // namespace brc

extern "C" {

void brc_sizes(std::int64_t sizes[2]) {
  sizes[0] = sizeof(brc_layer);
  sizes[1] = sizeof(brc_gradients);
}

const char* brc_cells(void) {
  static const std::string names = brc::names_of_cells();
  return names.c_str();
}

std::int32_t brc_saved(std::int32_t cell) {
  return brc::instruction_sets().kernels[0]->cells[cell].forward[0].cell->saved;
}

const char* brc_instruction_sets(void) { return brc::instruction_sets().names; }

int brc_forward(const brc_layer* layers, std::int32_t count, void* output, void* const* last,
                void* saved) try {
  const brc::FloatingPointEnvironment environment;
  const brc::ForwardPass& pass = brc::kernels_of(layers[0]).forward[layers[0].is_double];
  brc::run_forward(pass, layers, count, output, last, saved);
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

int brc_backward(const brc_layer* layer, const brc_gradients* gradients) try {
  const brc::FloatingPointEnvironment environment;
  const brc::BackwardPass& pass = brc::kernels_of(*layer).backward[layer->is_double];
  brc::run_backward(pass, *layer, *gradients);
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

}  // extern "C"
