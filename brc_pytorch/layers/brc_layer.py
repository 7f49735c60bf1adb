"""The bistable recurrent cell (BRC) as a module."""

from torch import nn

from brc_pytorch import ops
from brc_pytorch.layers.bistable_cell import BistableCell


class BistableRecurrentCell(BistableCell):
    r"""The bistable recurrent cell (BRC), in the place of :class:`torch.nn.GRUCell`.

    .. math::
        a_t &= 1 + \tanh(U_a x_t + w_a \odot h_{t-1} + b_a) \\
        c_t &= \sigma(U_c x_t + w_c \odot h_{t-1} + b_c) \\
        h_t &= c_t \odot h_{t-1} + (1 - c_t) \odot \tanh(U x_t + a_t \odot h_{t-1})

    A unit sees only itself. Its feedback strength a_t lies in (0, 2); above 1, and while its input
    is weak, the unit is bistable: it has two stable states and stays in the one it is in.

    Source: Vecoven, Ernst and Drion, PLOS ONE 2021, section "Bistable recurrent cells".

    Args:
        input_size: I, the number of features of an input.
        hidden_size: H, the number of units.
        bias: False leaves out b_c and b_a. Default: True.
        device: where the parameters live. Default: torch's default device.
        dtype: their dtype. Default: torch's default dtype.
        candidate_bias: add a bias b to the candidate, tanh(U x_t + a_t h_{t-1} + b), for comparison
            with implementations that have one. Default: False, as in the paper.
        output_dim: another name of ``hidden_size``, that of brc-pytorch 0.1.3.

    Shapes:
        - input_t: (*, I), * any leading dimensions, none included.
        - hidden_state: (*, H), zeros when it is not given; the leading dimensions broadcast.
        - output: (*, H).

    Attributes:
        kernelz, kernelr, kernelh: U_c, U_a, U, each (I, H); Xavier uniform.
        memoryz, memoryr: w_c, w_a, each (H); ones.
        bz, br: b_c, b_a, each (H); zeros. With ``candidate_bias=True`` also bh, b.

    Raises:
        TypeError: a size is no integer, or missing.
        ValueError: a size is below 1, ``output_dim`` differs from ``hidden_size``, or
            ``candidate_bias=True`` comes with ``bias=False``.

    Note:
        Names and orientation of the parameters are those of the authors' TensorFlow cell and of
        brc-pytorch 0.1.3, whose saved models load as they are.

    Example:
        >>> import torch
        >>> from brc_pytorch import BistableRecurrentCell
        >>> cell = BistableRecurrentCell(10, 20)
        >>> inputs, state = torch.randn(6, 3, 10), torch.randn(3, 20)
        >>> for x in inputs:
        ...     state = cell(x, state)
        >>> state.shape
        torch.Size([3, 20])
    """

    _recurrence = "brc"
    _step = staticmethod(ops.brc_step)
    _gates = staticmethod(ops.brc_gates)
    _memory_rank = 1
    _memory_initializer = staticmethod(nn.init.ones_)
