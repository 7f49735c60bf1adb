"""The Triton kernels compiled for GPUs, without one: what every call launches, to machine code."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from brc_pytorch.ops.backends import Call, Gradients
from brc_pytorch.ops.recurrences import RECURRENCES
from brc_pytorch.ops.triton import backend as triton_backend

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("an interpreted kernel is not compiled", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402 - where there is Triton
from triton.compiler import ASTSource  # noqa: E402 - the same

from brc_pytorch.ops.triton import kernels as triton_kernels  # noqa: E402 - the same

KERNELS = [
    "brc_forward",
    "brc_backward",
    "nbrc_forward",
    "nbrc_backward",
    "nbrc_forward_streamed",
    "nbrc_backward_streamed",
    "nbrc_forward_step",
    "nbrc_backward_step",
]
TYPES = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int8: "*i8",
}
SHARED_MEMORY = 99 * 2**10  # what a program may have on compute capability 8.6


@pytest.fixture
def launches(monkeypatch):
    """What is launched instead of being launched: by its name, the kernel and its arguments."""
    recorded = {}

    class Recorder:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            def launch(*args, **options):
                recorded[self.kernel.__name__] = (self.kernel, args, options)

            return launch

    for name in KERNELS:
        monkeypatch.setattr(triton_kernels, name, Recorder(getattr(triton_kernels, name)))
    return recorded


def compile_for(capability, kernel, args, options):
    """Compile as a launch on such a GPU would, with what it specialises by the arguments."""
    given = dict(zip(kernel.arg_names, args, strict=False))
    given |= {name: value for name, value in options.items() if name in kernel.arg_names}
    options = {name: value for name, value in options.items() if name not in kernel.arg_names}
    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        value = given[parameter.name]
        signature[parameter.name] = "i32"
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = TYPES[value.dtype]
            attributes[(place,)] = [["tt.divisibility", 16]]
        elif value is None or parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
            constants[(place,)] = value
        elif not parameter.do_not_specialize and value == 1:
            signature[parameter.name] = "constexpr"
            constants[(place,)] = 1
        elif not parameter.do_not_specialize and value % 16 == 0:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def stack_bytes(compiled, tmp_path):
    """The bytes a thread has in memory for the registers that it lacks."""
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    tools = Path(importlib.util.find_spec("triton.backends.nvidia").origin).parent / "bin"
    command = [tools / "cuobjdump", "--dump-resource-usage", binary]
    usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    return int(re.search(r"STACK:(\d+)", usage)[1])


def call(
    recurrence, hidden, dtype, batch=2, lengths=None, reverse=False, only_last=False, resets=False
):
    """Forward and backward, on tensors whose values nobody reads."""
    memory = (hidden, 2 * hidden) if recurrence == "nbrc" else (2 * hidden,)
    shapes = (3, batch, 4), (batch, hidden), (4, 3 * hidden), memory, (2 * hidden,)
    input, h_0, *parameters = (torch.zeros(shape, dtype=dtype) for shape in shapes)
    known = RECURRENCES[recurrence]
    reset_states = input.new_empty(0)
    given = Call(known, input, h_0[None], parameters, lengths, reverse)
    if resets:
        reset_states = h_0[None]
        mask = torch.zeros(3, batch, dtype=torch.bool)
        given = given._replace(resets=mask, reset_states=reset_states)
    output, last, saved = input.new_zeros(3, batch, hidden), h_0[None].clone(), input.new_empty(0)
    triton_backend.BACKEND.forward(given, output, last, saved)
    of_parameters = [parameter.clone() for parameter in parameters]
    gradients = Gradients(input.clone(), h_0[None].clone(), of_parameters, reset_states.clone())
    grad_output = None if only_last else torch.zeros_like(output)
    triton_backend.BACKEND.backward(given, grad_output, last, output, saved, gradients)


CASES = [
    ("brc", 100, torch.float32),
    ("brc", 64, torch.bfloat16),
    ("brc", 5, torch.float16),
    ("brc", 100, torch.float64),
    ("nbrc", 10, torch.float32),
    ("nbrc", 32, torch.float32),
    ("nbrc", 64, torch.float32),
    ("nbrc", 100, torch.float32),
    ("nbrc", 128, torch.float32),
    ("nbrc", 128, torch.bfloat16),
    ("nbrc", 256, torch.float32),
    ("nbrc", 256, torch.bfloat16),
    ("nbrc", 200, torch.float16),
    ("nbrc", 64, torch.float64),
    ("nbrc", 512, torch.float32),
    ("nbrc", 1000, torch.bfloat16),
    ("nbrc", 128, torch.float64),
]


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("recurrence", "hidden", "dtype"), CASES)
def test_compiles_without_spilling_registers(
    launches, tmp_path, capability, recurrence, hidden, dtype
):
    call(recurrence, hidden, dtype)
    assert len(launches) == 2
    for kernel, args, options in launches.values():
        compiled = compile_for(capability, kernel, args, options)
        assert stack_bytes(compiled, tmp_path) == 0
        assert compiled.metadata.shared <= SHARED_MEMORY


@pytest.mark.slow
@pytest.mark.parametrize(("recurrence", "hidden"), [("brc", 1), ("nbrc", 1), ("nbrc", 300)])
@pytest.mark.parametrize(
    "options",
    [
        {"batch": 1},
        {"lengths": torch.tensor([1, 3])},
        {"lengths": torch.tensor([1, 3]), "reverse": True},
        {"only_last": True},
        {"resets": True},
        {"resets": True, "reverse": True},
    ],
    ids=str,
)
def test_every_variant_compiles(launches, recurrence, hidden, options):
    call(recurrence, hidden, torch.float32, **options)
    for kernel, args, launch_options in launches.values():
        assert compile_for(90, kernel, args, launch_options).asm["ptx"]


def test_triton_is_not_imported_before_it_is_used():
    script = "import sys, brc_pytorch; sys.exit('triton' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)  # noqa: S603 - our own


def test_all_kernels_are_launched(launches):
    for recurrence, hidden, batch in [
        ("brc", 4, 2),
        ("nbrc", 4, 2),
        ("nbrc", 300, 2),
        ("nbrc", 4, 2049),
    ]:
        call(recurrence, hidden, torch.float32, batch=batch)
    assert sorted(launches) == sorted(KERNELS)


@pytest.mark.parametrize(
    ("hidden", "batch", "dtype", "design"),
    [
        (1, 100, torch.float32, "resident"),
        (128, 2048, torch.float32, "resident"),
        (129, 100, torch.float32, "streamed"),
        (128, 100, torch.bfloat16, "resident"),
        (257, 100, torch.float16, "streamed"),
        (64, 100, torch.float64, "resident"),
        (65, 100, torch.float64, "streamed"),
        (1000, 32, torch.float32, "streamed"),
        (1000, 100, torch.float32, "step by step"),
        (1, 2049, torch.float32, "step by step"),
    ],
)
def test_which_kernel_walks_a_layer(hidden, batch, dtype, design):
    walk = triton_backend._walk_of_rows(hidden, batch, dtype)
    found = "step by step" if walk is None else "streamed" if walk.rows else "resident"
    assert found == design


@pytest.mark.parametrize("batch", [1, 128, 129, 257, 500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_streaming_programs_have_all_rows_and_whole_parts(batch, dtype):
    for hidden in (129, 200, 256):
        walk = triton_backend._walk_of_rows(hidden, batch, dtype)
        assert walk.programs * walk.rows >= batch
        assert walk.block % (2 * walk.chunk) == 0
