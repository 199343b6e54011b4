"""The compiled latent decode on a GPU: every storage and width against float64, real tiles, CUDA graphs, one graph."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels import LatentKnowledge
from kblam_kernels.knowledge import SCALED_DTYPES
from kblam_kernels.latent import reference, scratch
from tests import tolerances
from tests.kernels.latent.decode_cases import CASES, arguments_of, hold, one_row
from tests.kernels.latent.latent_problems import LatentProblem, make

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET=1 hides the compiler: use make gpu-check"
    ),
    pytest.mark.usefixtures("poisoned_memory"),
]

# To try the bodies without a GPU: "cpu", with TRITON_INTERPRET=1 and without the two skips above.
DEVICE = "cuda"
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
STORAGES = pytest.mark.parametrize("storage", [None, torch.float16, torch.bfloat16, *SCALED_DTYPES], ids=str)
# Of a model: eight heads for two of the cache, a list of many splits, the last one ragged.
REAL: dict[str, Any] = {"B": 2, "H": 8, "G": 2, "N": 1, "T": 777, "M": 3001, "D": 128, "P": 384}


def forward(**arguments: Any) -> reference.LatentOutput:
    """The launcher: the op without the matrix products around it, whose bits are the matrix library's."""
    from kblam_kernels.latent import triton_decode

    return triton_decode.forward(**arguments)


@DTYPES
@pytest.mark.parametrize("name", CASES)
def test_case_grid(name: str, dtype: torch.dtype) -> None:
    hold(make(**CASES[name], dtype=dtype), DEVICE)


@DTYPES
@STORAGES
def test_every_storage_at_its_real_size(storage: torch.dtype | None, dtype: torch.dtype) -> None:
    hold(make(**REAL).to(dtype, storage), DEVICE)


@pytest.mark.parametrize("storage", [None, *SCALED_DTYPES], ids=str)
@pytest.mark.parametrize("P", [5, 256, 512, 768, 1000, 1024, 1536, 3072])
def test_every_width(P: int, storage: torch.dtype | None) -> None:
    hold(make(**REAL | {"P": P, "N": 3}).to(torch.bfloat16, storage), DEVICE)


@pytest.mark.parametrize("head_dim", [64, 80, 96, 256])
def test_every_head_dim(head_dim: int) -> None:
    hold(make(**REAL | {"D": head_dim, "window": 300}, dtype=torch.bfloat16), DEVICE)


@DTYPES
@STORAGES
@pytest.mark.parametrize("P", [384, 1536])
def test_a_row_does_not_depend_on_the_batch_around_it(P: int, storage: torch.dtype | None, dtype: torch.dtype) -> None:
    arguments = arguments_of(make(**REAL | {"B": 5, "H": 6, "P": P}).to(dtype, storage).on(DEVICE))
    together = forward(**arguments)
    alone = forward(**one_row(arguments, 3))
    for part, ours, theirs in zip(together._fields[:4], alone, together, strict=False):
        assert torch.equal(ours[0], theirs[3]), part
    for part, ours, theirs in zip(together._fields[:4], forward(**arguments), together, strict=False):
        assert torch.equal(ours, theirs), f"{part} twice"


@pytest.mark.parametrize("P", [384, 1536])
def test_blocks_of_queries_change_no_bit(P: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = arguments_of(make(**REAL | {"N": 70, "P": P, "window": 300}).to(torch.bfloat16).on(DEVICE))
    whole = forward(**arguments)
    monkeypatch.setattr(scratch, "SCRATCH_BYTES", scratch.SCRATCH_BYTES // 32)
    for part, ours, theirs in zip(whole._fields[:4], forward(**arguments), whole, strict=False):
        assert torch.equal(ours, theirs), part


@STORAGES
@pytest.mark.parametrize("P", [384, 1024, 1536])
def test_skipping_keeps_its_bound_and_reads_no_skipped_value(P: int, storage: torch.dtype | None) -> None:
    bias = torch.full((3001,), -30.0)
    bias[::500] = 0.0
    problem = make(**REAL | {"P": P, "knowledge_bias": bias}).to(torch.bfloat16, storage)
    on_device = problem.on(DEVICE)
    arguments = arguments_of(on_device)
    exact, skipping = forward(**arguments), forward(**arguments, skip_threshold=1e-3)
    skipped, visited = skipping.tiles.tolist()
    assert 0 < skipped < visited
    for name in ("prompt", "share", "lse"):
        assert torch.equal(getattr(skipping, name), getattr(exact, name)), name
    values = problem.to(torch.float64).knowledge.value
    rounding = 2 * torch.finfo(torch.bfloat16).eps * exact.latent.float().abs().max().item()
    error = (skipping.latent.float() - exact.latent.float()).abs().max().item()
    assert error <= 1e-3 * values.abs().sum(0).max().item() + rounding


@STORAGES
def test_a_cuda_graph_sees_what_is_written_after_it_was_captured(storage: torch.dtype | None) -> None:
    filled = torch.tensor([[0, 2000]], dtype=torch.int32).expand(2, 2)
    problem = make(**REAL | {"knowledge_range": filled}).to(torch.bfloat16, storage)
    new = make(**REAL | {"seed": 9}).to(torch.bfloat16, storage)
    on_device = problem.on(DEVICE)
    # One row for the batch, as a growing list has it.
    ranges = torch.tensor([[0, 2000]], dtype=torch.int32, device=DEVICE)
    on_device = on_device.but(knowledge_range=ranges.expand(2, 2))
    for _ in range(2):
        on_device.run("triton")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output, lse = on_device.run("triton")
    written = rewritten(problem.knowledge, new.knowledge, 17)
    for field in ("key", "value", "norm", "key_scale", "value_scale"):
        if getattr(written, field) is not None:
            getattr(on_device.knowledge, field).view(torch.uint8).copy_(getattr(written, field).view(torch.uint8))
    ranges.copy_(torch.tensor([[5, 3001]], dtype=torch.int32))
    graph.replay()
    torch.cuda.synchronize()
    host = problem.but(knowledge=written, knowledge_range=torch.tensor([[5, 3001]], dtype=torch.int32).expand(2, 2))
    plain, plain_lse = host.run()
    tolerances.check_output(output.cpu(), host.exact()[0], plain)
    torch.testing.assert_close(lse.cpu(), plain_lse, rtol=2**-8, atol=2**-8)


def rewritten(knowledge: LatentKnowledge, other: LatentKnowledge, row: int) -> LatentKnowledge:
    """A copy in which one triple is that of another list."""
    changed: dict[str, Tensor] = {}
    for field in ("key", "value", "norm", "key_scale", "value_scale"):
        if getattr(knowledge, field) is not None:
            changed[field] = getattr(knowledge, field).clone()
            changed[field].view(torch.uint8)[row] = getattr(other, field).view(torch.uint8)[row]
    return dataclasses.replace(knowledge, **changed)


def test_torch_compile_keeps_one_graph() -> None:
    problem = make(**REAL, dtype=torch.bfloat16).on(DEVICE)
    eager, _ = problem.run("triton")
    compiled = torch.compile(lambda: problem.run("triton")[0] * 1.0, fullgraph=True)
    # The projections around the op may be another library call when compiled.
    torch.testing.assert_close(compiled(), eager, rtol=2**-6, atol=2**-6)


@pytest.mark.alone
def test_offsets_beyond_32_bits() -> None:
    P, M = 3072, 2**31 // 3072 + 500
    needed = M * P + M * 8
    if torch.cuda.mem_get_info()[0] < needed + 2**30:
        pytest.skip(f"needs {needed / 2**30:.1f} GiB of free device memory")
    problem = make(**REAL | {"P": P, "M": 500}).to(torch.bfloat16, torch.int8).on(DEVICE)
    small = problem.knowledge
    assert small.key_scale is not None
    assert small.value_scale is not None

    def at_the_end(rows: Tensor) -> Tensor:
        """The rows as the last of M; the others, which a range hides, are zeros."""
        return torch.cat([rows.new_zeros(M - len(rows), *rows.shape[1:]), rows])

    # One list for keys and values: two would not say more.
    key = at_the_end(small.key)
    knowledge = LatentKnowledge(
        key, key, at_the_end(small.norm), small.projection, at_the_end(small.key_scale), at_the_end(small.value_scale)
    )
    shown = torch.tensor([[M - 500, M]], dtype=torch.int32, device=DEVICE).expand(2, 2)
    far = problem.but(knowledge=knowledge, knowledge_range=shown).run("triton")[0]
    near = problem.but(knowledge=dataclasses.replace(small, value=small.key)).run("triton")[0]
    torch.testing.assert_close(far, near, rtol=2**-7, atol=2**-7)


def test_float32_is_not_tf32() -> None:
    """tf32 alone would lose ten bits: its error is over 1e-4 here."""
    problem: LatentProblem = make(**REAL, dtype=torch.float32)
    exact, _ = problem.exact()
    output, _ = problem.on(DEVICE).run("triton")
    assert tolerances.relative_error(output.cpu(), exact) < 3e-5
