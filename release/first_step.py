"""The first training step of an installation, through the compiled kernels; prints its seconds."""

import time

start = time.perf_counter()
import torch  # noqa: E402 - its import is timed

imported_torch = time.perf_counter()
import brc_pytorch  # noqa: E402 - the same

imported = time.perf_counter()
assert brc_pytorch.ops.backend_for(torch.device("cpu")) == "cpu"
rnn = brc_pytorch.NBRC(3, 20, num_layers=2)
with brc_pytorch.ops.backend("cpu"):  # which runs or raises
    output, _ = rnn(torch.randn(10, 4, 3))
    output.square().mean().backward()
assert all(parameter.grad.isfinite().all() for parameter in rnn.parameters())
stepped = time.perf_counter()
print(
    f"brc_pytorch {brc_pytorch.__version__}, torch {torch.__version__}: imports of torch"
    f" {imported_torch - start:.1f} s, of brc_pytorch {imported - imported_torch:.2f} s,"
    f" first step {stepped - imported:.2f} s"
)
