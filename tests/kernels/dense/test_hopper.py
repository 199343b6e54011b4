"""Hopper's own prefill: which calls it takes, how it is handed tensors, and what the compiler makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton

from kblam_kernels.common.launch import recording
from kblam_kernels.common.tiles import SHARED_LIMIT, TILE_VARIABLE, Arch
from kblam_kernels.dense import triton_forward
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.tools.cases import dense_call
from tests.kernels import cases
from tests.kernels.problems import INF, Problem, make

BFLOAT16, FLOAT16 = torch.bfloat16, torch.float16
HAS_GLUON = ".".join(triton.__version__.split(".")[:2]) in triton_forward.GLUON_RELEASES
needs_gluon = pytest.mark.skipif(not HAS_GLUON, reason=f"was not written for Triton {triton.__version__}")


def long(**changes: Any) -> Problem:
    """The smallest call that it takes."""
    options = {"B": 2, "H": 2, "G": 1, "N": 256, "T": 256, "M": 3, "D": 128, "dtype": BFLOAT16} | changes
    return make(**options)


def per_row(problem: Problem) -> Problem:
    return problem.but(knowledge_bias=torch.tensor([[0.5], [-1.0]]).expand(2, problem.knowledge.num_tokens))


TAKEN: dict[str, Problem] = {
    "plain": long(),
    "float16": long(dtype=FLOAT16),
    "longer": long(N=300, T=999, M=1000),
    "one row": long(B=1),
    "one token": long(M=1),
    "own lists": long(shared=False),
    "a number as bias": long(knowledge_bias=-2.0),
    "a hidden list": long(knowledge_bias=-INF),
    "a number for each row": per_row(long()),
    "negative scale": long(scale=-0.1),
    "model layout": cases.model_layout(long()),
}
LEFT: dict[str, Problem] = {
    "short": long(N=255),
    "no knowledge": long(M=0),
    "prompt mask": long(prompt_mask=torch.ones(2, 256, dtype=torch.bool)),
    "window": long(window=300),
    "range": long(knowledge_range=torch.tensor([[0, 3], [0, 2]])),
    "a bias for each token": long(knowledge_bias=torch.zeros(3)),
    "float32": long(dtype=torch.float32),
    "narrow": long(D=64),
    "wide": long(D=136),
    "no scores": long(scale=0.0),
}


def call_of(problem: Problem) -> DenseCall:
    call: DenseCall = problem.call()[1]
    return call


@pytest.fixture(autouse=True)
def no_pinned_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TILE_VARIABLE, raising=False)


@pytest.mark.parametrize("name", [*TAKEN, *LEFT])
def test_which_calls_it_takes(name: str) -> None:
    call = call_of((TAKEN | LEFT)[name])
    assert triton_forward.is_for_hopper(call, "sm_90") == (name in TAKEN)


@pytest.mark.parametrize("name", [*TAKEN, *LEFT])
def test_the_batch_has_no_say(name: str) -> None:
    problem = (TAKEN | LEFT)[name]
    for row in range(len(problem.query)):
        alone = call_of(problem.rows(slice(row, row + 1)))
        assert triton_forward.is_for_hopper(alone, "sm_90") == (name in TAKEN)


@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "interpreter"])
def test_other_devices_keep_their_kernel(arch: Arch) -> None:
    assert not triton_forward.is_for_hopper(call_of(TAKEN["plain"]), arch)


def test_a_pinned_tile_is_one_of_the_other_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TILE_VARIABLE, "128x64x8x3")
    assert not triton_forward.is_for_hopper(call_of(TAKEN["plain"]), "sm_90")


def serve(call: DenseCall) -> str:
    return "by Hopper's own kernel"


@pytest.fixture
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ModuleType("own")
    own.forward = serve  # type: ignore[attr-defined]
    monkeypatch.setattr(triton_forward, "hopper_kernel", lambda: own)
    monkeypatch.setattr(triton_forward, "target_arch", lambda tensor: "sm_90")


@pytest.mark.usefixtures("on_hopper")
def test_the_single_pass_hands_over_what_it_takes() -> None:
    for name in ("plain", "negative scale", "own lists"):
        assert triton_forward.forward(call_of(TAKEN[name])) == serve(call_of(TAKEN[name]))


@pytest.mark.usefixtures("on_hopper")
def test_recorded_launches_are_those_of_every_triton() -> None:
    with recording("sm_90") as made:
        triton_forward.forward(dense_call(BFLOAT16, 128, 1024))
    assert [launch.kernel for launch in made.launches] == [triton_forward.dense_forward_kernel]


@pytest.mark.parametrize("release", ["3.5.1", "3.10.0", "4.0.0"])
def test_another_gluon_is_not_taken(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_forward, "dense_forward_kernel", triton.JITFunction(serve))
    monkeypatch.setattr(triton, "__version__", release)
    assert triton_forward.hopper_kernel.__wrapped__() is None


@needs_gluon
def test_gluon_is_taken_where_kernels_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_forward, "dense_forward_kernel", triton.JITFunction(serve))
    own = triton_forward.hopper_kernel.__wrapped__()
    assert own is not None
    monkeypatch.setitem(sys.modules, own.__name__, None)
    assert triton_forward.hopper_kernel.__wrapped__() is None, "a Triton without it"


def test_no_interpreter_runs_it() -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("kernels are compiled in this run")
    assert triton_forward.hopper_kernel.__wrapped__() is None


@needs_gluon
def test_what_tma_cannot_address_is_copied() -> None:
    from kblam_kernels.dense.gluon_forward import rows_of

    room = torch.randn(2, 3, 300, 140).to(BFLOAT16)
    for tensor in (
        room[..., :128],
        room[..., 1:129],
        room[:, :1, :, :128].expand(2, 3, 300, 128),
        room[:1, 0, :, :128],
    ):
        rows = rows_of(tensor, 64)
        assert torch.equal(rows.base, tensor[(None,) * (4 - tensor.dim())])
        assert rows.base.data_ptr() % 16 == 0
        assert all(stride * 2 % 16 == 0 and stride > 0 for stride in rows.strides[:3])
    inside = cases.model_layout(long()).query
    assert rows_of(inside, 64).base.data_ptr() == inside.data_ptr()
    assert rows_of(inside, 64).strides == [*inside.stride()]
    assert rows_of(inside[0], 64).shape == [1, 2, 256, 128]


COMPILED = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

class Device:
    class utils:
        load_binary = staticmethod(lambda *_: (1, 1, 100, 0, 1024))
        get_device_properties = staticmethod(lambda _: {"max_shared_mem": %d})
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda _: 0)
    launcher_cls = staticmethod(lambda *_: lambda *_, **__: None)

driver.set_active(Device())
from kblam_kernels.dense import gluon_forward, triton_forward
from kblam_kernels.tools import resources
from tests.kernels.problems import make

triton_forward.target_arch = lambda tensor: "sm_90"
kernel = gluon_forward.dense_hopper_kernel
variants = (dict(dtype=torch.bfloat16, knowledge_bias=0.5), dict(dtype=torch.float16, shared=False))
for variant in variants:
    # Lengths, and tensors inside others: none compiles again.
    for B, N, T, M in ((2, 256, 256, 1), (1, 300, 777, 130), (3, 1024, 1024, 1008)):
        triton_forward.forward(make(B=B, H=4, G=2, N=N, T=T, M=M, D=128, **variant).call()[1])
compiled = list(kernel.device_caches[0][0].values())
print(triton_forward.dense_forward_kernel.device_caches[0][0], len(compiled))
for each in compiled:
    usage, assembly = resources._disassemble(each.asm["cubin"])
    spilt = resources._number("STACK", usage) + resources._number("LOCAL", usage)
    print(each.metadata.shared, spilt, assembly.count("LDL"), assembly.count("HGMMA"))
"""


@needs_gluon
@pytest.mark.timeout(600)
def test_the_compiler_takes_it_once_for_every_length() -> None:
    """Through Triton's own launcher, for a Hopper that is not there."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILED % SHARED_LIMIT["sm_90"]],
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != TILE_VARIABLE} | {"TRITON_INTERPRET": "0"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, *rows = done.stdout.strip().splitlines()
    assert first == "{} 2", "one machine code for a kind of call, and nothing by the other kernel"
    for row in rows:
        shared, spilt, loads, products = map(int, row.split())
        assert shared <= SHARED_LIMIT["sm_90"]
        # One number before the loops, read once. ptxas 12.9, of Triton 3.9, keeps three more there.
        most_spilt, most_loads = (16, 10) if triton.__version__.startswith("3.9.") else (8, 2)
        assert spilt <= most_spilt
        assert loads <= most_loads
        # Five copies of a step of both products in each warp group.
        assert products >= 2 * 5 * 16
