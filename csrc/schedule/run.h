// A pass of one cell as the C interface describes it: memory, division, threads.

#pragma once

#include "schedule/pass.h"

namespace brc {

// std::bad_alloc for lack of memory; nothing has been written then.
void run_forward(const ForwardPass& pass, const brc_layer* layers, int count, void* output,
                 void* const* last, void* saved);
void run_backward(const BackwardPass& pass, const brc_layer& layer,
                  const brc_gradients& gradients);

}  // namespace brc
