"""Exported, traced and direct calls of the operators: checked like any other, also in autocast."""

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from brc_pytorch import BRC, NBRC, ops

pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.trace:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
networks = pytest.mark.parametrize("network_type", [BRC, NBRC])


class Model(nn.Module):
    """A network that hands on to a recurrent one, and reads it out."""

    def __init__(self, network_type):
        super().__init__()
        self.encode = nn.Linear(3, 4)
        self.rnn = network_type(4, 5, num_layers=2)
        self.decode = nn.Linear(5, 2)

    def forward(self, input, h_0):
        output, h_n = self.rnn(self.encode(input), h_0)
        return self.decode(output), h_n


class Bare(nn.Module):
    """The recurrent network alone, given input and states."""

    def __init__(self, network_type):
        super().__init__()
        self.rnn = network_type(4, 5)

    def forward(self, input, h_0):
        return self.rnn(input, h_0)


def exported(module, *arguments):
    steps, batch = torch.export.Dim("steps", min=1), torch.export.Dim("batch", min=1)
    shapes = ({0: steps, 1: batch}, {1: batch})
    return torch.export.export(module, arguments, dynamic_shapes=shapes).module()


def recorded(module, *arguments):
    return make_fx(module)(*arguments)


def traced(module, *arguments):
    return torch.jit.trace(module, arguments, check_trace=False)


ways = pytest.mark.parametrize("program_of", [exported, recorded, traced])


@networks
@ways
@pytest.mark.parametrize("grad", [False, True])
def test_a_program_under_autocast_computes_what_the_module_does(network_type, program_of, grad):
    model = Model(network_type)
    arguments = torch.randn(7, 2, 3), torch.randn(2, 2, 5)
    with torch.set_grad_enabled(grad):
        program = program_of(model, *arguments)
        with torch.autocast("cpu", torch.bfloat16):
            got, expected = program(*arguments), model(*arguments)
    for value, want in zip(got, expected, strict=True):
        assert value.dtype == want.dtype == torch.bfloat16
        assert torch.equal(value, want)


@networks
@ways
def test_a_program_refuses_what_it_was_not_made_for(network_type, program_of):
    """Where torch checks nothing itself, the operator does; nothing is computed from garbage."""
    module = Bare(network_type)
    program = program_of(module, torch.randn(7, 2, 4), torch.randn(1, 2, 5))
    for input, h_0 in [
        (torch.randn(7, 2, 4).bfloat16(), torch.randn(1, 2, 5)),
        (torch.randn(7, 2, 4).double(), torch.randn(1, 2, 5)),
        (torch.randn(7, 2, 4), torch.randn(1, 2, 5).double()),
        (torch.randn(7, 2, 9), torch.randn(1, 2, 5)),
        (torch.randn(7, 2, 1), torch.randn(1, 2, 5)),
        (torch.randn(7, 2, 4), torch.randn(1, 200, 5)),
        (torch.randn(7, 2, 4), torch.randn(1, 2, 6)),
        (torch.ones(7, 2, 4, dtype=torch.int64), torch.randn(1, 2, 5)),
    ]:
        with pytest.raises((ValueError, RuntimeError, AssertionError)):
            program(input, h_0)


@networks
def test_a_program_is_the_same_whatever_device_it_was_exported_on(network_type):
    programs = []
    for device in ("cpu", "meta"):
        module = Model(network_type).to(device)
        arguments = torch.randn(7, 2, 3, device=device), torch.randn(2, 2, 5, device=device)
        nodes = exported(module, *arguments).graph.nodes
        programs.append([f"{node.name}: {node.target}{node.args}{node.kwargs}" for node in nodes])
    assert "brc_pytorch.scan.default" in str(programs[0])
    assert programs[0] == programs[1]


@networks
def test_a_program_exported_here_runs_through_any_backend(network_type):
    module = Bare(network_type)
    arguments = torch.randn(7, 2, 4), torch.randn(1, 2, 5)
    program = exported(module, *arguments)
    expected = module(*arguments)
    with ops.backend("reference"):
        got = program(*arguments)
        want = module(*arguments)
    torch.testing.assert_close(got, expected)
    for value, reference in zip(got, want, strict=True):
        assert torch.equal(value, reference)


@networks
def test_a_program_exported_here_has_gradients_through_any_backend(network_type):
    module = Bare(network_type)
    arguments = torch.randn(7, 2, 4), torch.randn(1, 2, 5)
    program = exported(module, *arguments)
    gradients = []
    for name, run in [("reference", program), ("reference", module), (None, module)]:
        parameters = [*run.parameters()]
        if name is None:
            loss = run(*arguments)[0].square().sum()
            gradients.append(torch.autograd.grad(loss, parameters))
            continue
        with ops.backend(name):
            loss = run(*arguments)[0].square().sum()
            gradients.append(torch.autograd.grad(loss, parameters))
    for got in gradients[1:]:
        torch.testing.assert_close(gradients[0], got, rtol=1e-4, atol=1e-5)


def test_a_recorded_training_step_holds_the_operators():
    x, h_0, *parameters = (torch.randn(shape) for shape in ((5, 2, 3), (2, 4), (3, 12), (4, 8)))

    def step(x, h_0, kernel, memory):
        leaves = [tensor.detach().requires_grad_() for tensor in (x, h_0, kernel, memory)]
        output, _ = ops.nbrc(*leaves)
        return torch.autograd.grad(output.square().sum(), leaves)

    graph = make_fx(step, tracing_mode="real")(x, h_0, *parameters)
    names = [str(node.target) for node in graph.graph.nodes]
    assert "brc_pytorch.scan.default" in names
    assert "brc_pytorch.scan_backward.default" in names
    others = [torch.randn_like(tensor) for tensor in (x, h_0, *parameters)]
    for got, want in zip(graph(*others), step(*others), strict=True):
        assert torch.equal(got, want)


def direct(**changes):
    """Arguments of the operator itself."""
    given = {
        "recurrence": "nbrc",
        "input": torch.randn(5, 2, 3),
        "states": torch.randn(1, 2, 4),
        "parameters": [torch.randn(3, 12), torch.randn(4, 8), torch.randn(8)],
        "lengths": torch.tensor([5, 2]),
        "reverse": False,
        "keep": True,
    }
    return {**given, **changes}


def sparse(*shape):
    return torch.zeros(shape).to_sparse()


PARAMETERS = torch.randn(3, 12), torch.randn(4, 8), torch.randn(8)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"recurrence": "rnn"},
            "recurrence: expected one of 'brc', 'nbrc', 'gru', 'lstm', got 'rnn'",
        ),
        ({"input": torch.randn(5, 3)}, r"input: expected \(T, B, I\) with T > 0, got \(5, 3\)"),
        ({"input": torch.randn(0, 2, 3)}, "T > 0"),
        ({"input": torch.ones(5, 2, 3, dtype=torch.int64)}, "floating-point dtype"),
        ({"input": torch.ones(5, 2, 3, dtype=torch.complex64)}, "floating-point dtype"),
        ({"input": torch.randn(5, 2, 4)}, r"kernel: expected shape \(4, 12\), got \(3, 12\)"),
        ({"input": torch.randn(5, 2, 3).double()}, "h_0: expected dtype torch.float64"),
        ({"input": sparse(5, 2, 3)}, "input: expected a dense tensor, got torch.sparse_coo"),
        ({"states": torch.randn(2, 4)}, r"h_0: expected \(B, H\) = \(2, H\), got \(4,\)"),
        ({"states": torch.randn(1, 200, 4)}, r"h_0: expected shape \(2, 4\), got \(200, 4\)"),
        ({"states": torch.randn(2, 2, 4)}, "states: expected 1 of 'nbrc', got 2"),
        ({"states": torch.randn(1, 2, 6)}, r"kernel: expected shape \(3, 18\), got \(3, 12\)"),
        ({"states": torch.randn(1, 2, 4).bfloat16()}, "h_0: expected dtype torch.float32"),
        ({"states": torch.randn(1, 2, 4, device="meta")}, "h_0: expected device cpu, got meta"),
        ({"states": sparse(1, 2, 4)}, "h_0: expected a dense tensor"),
        ({"parameters": PARAMETERS[:1]}, "parameters: expected 2 to 3 tensors, kernel, memory"),
        ({"parameters": [*PARAMETERS, PARAMETERS[2]]}, "expected 2 to 3 tensors.*got 4"),
        ({"parameters": [PARAMETERS[0], torch.randn(8)]}, r"memory: expected shape \(4, 8\)"),
        ({"parameters": [*PARAMETERS[:2], torch.randn(9)]}, r"bias: expected shape \(8,\)"),
        ({"parameters": [*PARAMETERS[:2], torch.tensor(1.0)]}, r"bias: expected shape \(8,\)"),
        ({"lengths": torch.tensor([5])}, "lengths: expected 2 integers, one a row"),
        ({"lengths": torch.tensor([[5, 2]])}, "lengths: expected 2 integers, one a row"),
        ({"lengths": torch.tensor([5.0, 2.0])}, "of torch.float32"),
        ({"lengths": torch.tensor([True, False])}, "of torch.bool"),
        ({"lengths": torch.tensor([5 + 0j, 2])}, "of torch.complex64"),
    ],
)
@pytest.mark.parametrize("autocast", [False, True])
def test_direct_calls_are_checked(changes, expected, autocast):
    scan = torch.ops.brc_pytorch.scan
    scan(**direct())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if autocast and "expected dtype" in expected:
            scan(**direct(**changes))  # there dtypes may differ
            return
        with pytest.raises(ValueError, match=expected):
            scan(**direct(**changes))


def direct_backward(**changes):
    given = direct()
    output, last, saved = torch.ops.brc_pytorch.scan(**given)
    kernel, memory, bias = given.pop("parameters")
    del given["keep"]
    given |= {
        "grad_output": torch.randn_like(output),
        "grad_last": torch.randn_like(last),
        "kernel": kernel,
        "memory": memory,
        "bias": bias,
        "recurrent_bias": None,
        "output": output,
        "saved": saved,
        "input_needs_grad": True,
    }
    return {**given, **changes}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"grad_output": torch.randn(5, 2, 5)}, r"grad_output: expected shape \(5, 2, 4\)"),
        ({"grad_output": torch.randn(5, 2, 4).double()}, "grad_output: expected dtype"),
        ({"grad_last": torch.randn(2, 4)}, r"grad_last: expected shape \(1, 2, 4\)"),
        ({"grad_last": torch.randn(1, 2, 4, device="meta")}, "grad_last: expected device cpu"),
        ({"output": torch.randn(4, 2, 4)}, r"output: expected shape \(5, 2, 4\)"),
        ({"output": torch.randn(5, 2, 4).half()}, "output: expected dtype"),
        ({"memory": torch.randn(8)}, r"memory: expected shape \(4, 8\)"),
        ({"recurrent_bias": torch.randn(8)}, "parameters: expected 2 to 3 tensors"),
        ({"lengths": torch.tensor([True, False])}, "lengths: expected 2 integers"),
    ],
)
def test_direct_calls_of_the_backward_operator_are_checked(changes, expected):
    scan_backward = torch.ops.brc_pytorch.scan_backward
    scan_backward(**direct_backward())
    with pytest.raises(ValueError, match=expected):
        scan_backward(**direct_backward(**changes))


@pytest.mark.skipif(not ops.cpu.instruction_sets(), reason="the reference saves nothing")
def test_what_was_saved_is_checked_too():
    given = {
        "input": torch.randn(5, 2, 24),
        "kernel": torch.randn(24, 12),
        "saved": torch.randn(5, 2, 9),
    }
    scan_backward = torch.ops.brc_pytorch.scan_backward
    with pytest.raises(ValueError, match=r"saved: expected shape \(5, 2, 8\), got \(5, 2, 9\)"):
        scan_backward(**direct_backward(**given))
    with pytest.raises(ValueError, match=r"saved: expected dtype torch\.float32"):
        scan_backward(**direct_backward(**{**given, "saved": torch.randn(5, 2, 8).double()}))
    kept = scan_backward(**direct_backward(**{**given, "saved": torch.empty(0)}))
    assert all(gradient.isfinite().all() for gradient in kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("keep", [False, True])
def test_narrow_types_have_the_gradients_of_float32(dtype, keep):
    x, h_0 = torch.randn(30, 3, 24).to(dtype), torch.randn(1, 3, 4).to(dtype)
    parameters = [torch.randn(24, 12).to(dtype) / 5, torch.randn(4, 8).to(dtype) / 2]

    def gradients(dtype):
        leaves = [t.to(dtype).requires_grad_() for t in (x, h_0, *parameters)]
        output, *_ = torch.ops.brc_pytorch.scan(
            "nbrc", *leaves[:2], leaves[2:], None, reverse=False, keep=keep
        )
        return torch.autograd.grad(output.sum(), leaves)

    for got, want in zip(gradients(dtype), gradients(torch.float32), strict=True):
        assert got.dtype == dtype
        if keep:  # the wide output was saved: nothing but the result is rounded
            assert torch.equal(got, want.to(dtype))
        else:
            torch.testing.assert_close(got.float(), want, rtol=0.1, atol=0.1)
