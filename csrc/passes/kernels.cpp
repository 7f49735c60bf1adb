// The kernels of all cells for one instruction set; compiled once for each, with BRC_ISA its name and
// BRC_VECTOR_BYTES its widest vector.

#include "cells/cells.h"
#include "passes/backward.h"
#include "passes/forward.h"

namespace brc::BRC_ISA {

template <class Cell>
constexpr CellKernels kernels_of{Cell::name,
                                 {Forward<float, Cell>::pass, Forward<double, Cell>::pass},
                                 {Backward<float, Cell>::pass, Backward<double, Cell>::pass}};

template <class List>
struct Table;

template <class... Cells>
struct Table<CellList<Cells...>> {
  static constexpr CellKernels cells[] = {kernels_of<Cells>...};
  static constexpr Kernels kernels{cells, sizeof...(Cells)};
};

extern const Kernels kernels;
const Kernels kernels = Table<AllCells>::kernels;

}  // namespace brc::BRC_ISA
