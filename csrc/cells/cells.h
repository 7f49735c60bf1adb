// All cells; a new one is a file beside this one, and its name here.
//
// A cell is a struct of constants and functions on vectors of units:
//   shape, name          its sizes, and what the outside calls it
//   Gates<T, N>          the gates of N units
//   gates                from the arguments, the memory where it is no matrix, the states before
//   step                 the states after
//   save                 what the backward pass needs of a step, if it is not to compute it again
//   recall               the gates, from what was saved and the states before and after
//   largest_to_recall    above it, a first state makes the backward pass compute the gates again
//   differentiate        the gradients of the arguments and of the states before

#pragma once

#include "cells/bistable.h"
#include "cells/gru.h"
#include "cells/lstm.h"

namespace brc::BRC_ISA {

template <class... Cells>
struct CellList {};

using AllCells = CellList<Brc, Nbrc, Gru, Lstm>;

}  // namespace brc::BRC_ISA
