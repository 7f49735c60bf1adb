"""The recurrences as Triton kernels; :mod:`brc_pytorch.ops.triton.backend` launches them.

Each kernel walks over ``count`` steps of the sequence, from time ``first`` on. Tensors of these
steps alone lie densely from their first row on; those of the whole sequence are addressed by time.

- ``arguments`` (count, B, 3H): the input's part of the gates' arguments, U_c x, U_a x and U x side
  by side. A backward pass of the BRC reads it, that of the nBRC reads U_c x + R_c(h) and
  U_a x + R_a(h) there; both leave the gradients of the whole arguments in its place.
- ``bias`` (``biases``): that of c and a, (2H), of all three gates, (3H), or None.
- ``state`` (B, H), ``grad_state`` (B, H): h, and its gradient, where the walk begins; after it,
  where it ends. They are of the type that is computed in; all others are of the tensors' own type.
- ``output`` (T, B, H), ``grad_output`` (T, B, H) of any strides or None.
- ``lengths`` (B): int32 from 0 to T, or None for T in every row.

Offsets into tensors are of 64 bits: a tensor may span more than 2**31 elements.

A program of one warp has one thread for each column of (B, H), which alone reads and writes it.
The programs that walk whole rows have several warps, whose threads wait for each other.

Symbols: T time, B batch, H hidden size; D the gradient of h_t, g the candidate.
"""

from brc_pytorch.ops.triton.kernels.columns import brc_backward, brc_forward
from brc_pytorch.ops.triton.kernels.resident import nbrc_backward, nbrc_forward
from brc_pytorch.ops.triton.kernels.stepwise import nbrc_backward_step, nbrc_forward_step
from brc_pytorch.ops.triton.kernels.streamed import nbrc_backward_streamed, nbrc_forward_streamed

__all__ = [
    "brc_backward",
    "brc_forward",
    "nbrc_backward",
    "nbrc_backward_step",
    "nbrc_backward_streamed",
    "nbrc_forward",
    "nbrc_forward_step",
    "nbrc_forward_streamed",
]
