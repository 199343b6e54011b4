"""How launchers hand tensors to kernels: recorded without data, and compiled once for every length."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from kblam_kernels.common import launch
from kblam_kernels.common.launch import (
    Heads,
    Strides,
    columns,
    heads,
    is_fetched_whole,
    one_by_one,
    recording,
    stride_of,
    target_arch,
)
from kblam_kernels.common.tiles import Tile
from kblam_kernels.tools.cases import cases
from tests.kernels.ops import TRITON_WAYS
from tests.kernels.ways import Way


def test_a_launch_is_noted_and_not_made() -> None:
    def kernel() -> None:
        raise AssertionError("was launched")

    tile, on = Tile(16, 16, 4, 1), torch.ones(2)
    with recording("sm_90") as made:
        assert target_arch(on) == "sm_90"
        launch.launch(kernel, (3, 1), tile, on, rows=5, data=on)
        with recording("sm_80") as inner:
            assert target_arch(on) == "sm_80"
        launch.launch(kernel, (4,), tile, on)
    assert [(grid, arguments) for _, grid, arguments, _ in made.launches] == [
        ((3, 1), {"rows": 5, "data": on}),
        ((4,), {}),
    ]
    assert made.launches[0][0] is kernel
    assert made.launches[0][3] is tile
    assert inner.launches == []
    assert target_arch(on) == "interpreter"


@pytest.mark.parametrize(("follows", "options"), [(False, {}), (True, {"launch_pdl": True})])
def test_what_triton_is_told_of_a_launch(follows: bool, options: dict[str, bool]) -> None:
    told: list[Any] = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda **given: told.append((grid, given))

    numbers = Strides(1, 2, 3)
    launch.launch(Kernel(), (3,), Tile(16, 16, 4, 2), torch.ones(1), follows=follows, rows=5, strides=numbers)
    launch.launch(Kernel(), (3, 0), Tile(16, 16, 4, 2), torch.ones(1), rows=5)
    given = {"rows": 5, "strides_bias": 1, "strides_range": 2, "strides_mask": 3, "num_warps": 4, "num_stages": 2}
    given["enable_fp_fusion"] = True  # Triton 3.10 will do without by itself
    assert told == [((3,), given | options)], "and nothing of an empty grid"


def test_a_recording_ends_with_an_error() -> None:
    with pytest.raises(ZeroDivisionError), recording("sm_80"):
        raise ZeroDivisionError
    assert target_arch(torch.ones(1)) == "interpreter"


def test_an_axis_of_one_entry_has_no_stride() -> None:
    tensor = torch.empty(1, 4, 1, 8)
    assert heads(tensor)[1:] == (0, 8, 0)
    assert heads(torch.empty(4, 5, 8))[1:] == (0, 40, 8)
    assert heads(torch.empty(5, 8))[1:] == (0, 0, 8)
    assert (stride_of(None, 0), stride_of(torch.empty(3, 2), 0)) == (0, 2)
    assert columns(None) is None


def test_rows_of_whole_vectors_are_fetched_whole() -> None:
    def fetched(*shape: int, dtype: torch.dtype = torch.float16) -> bool:
        return is_fetched_whole(torch.empty(shape, dtype=dtype))

    room = torch.empty(2, 3, 5, 80, dtype=torch.float16)
    assert fetched(2, 3, 5, 80)
    assert fetched(3, 5, 64)
    assert is_fetched_whole(room[..., :72], room[0, ..., 8:16][..., :8])
    # Strides that Triton does not know to be multiples of 16, a row's end inside a vector, an odd address.
    assert not fetched(2, 3, 5, 72)
    assert not fetched(1, 1, 2, 33)
    assert not is_fetched_whole(room, room[..., :36])
    assert not is_fetched_whole(room[..., 1:65])
    # An axis of one entry has no stride.
    assert fetched(1, 1, 1, 72)


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{case.arch}-{case.variant}") for case in list(cases())[::9]])
def test_launchers_look_at_no_data(case: Any) -> None:
    """They run on tensors without memory, and say how large a grid is in whole numbers."""
    with recording(case.arch) as made:
        case.launch()
    for _, grid, arguments, _ in made.launches:
        assert all(isinstance(size, int) for size in grid)
        assert {tensor.device.type for tensor in arguments.values() if isinstance(tensor, torch.Tensor)} <= {"meta"}


SIGNATURES = """
import sys
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from kblam_kernels.common.launch import one_by_one, options, recording
from kblam_kernels.tools import cases, resources
from tests.kernels.common.test_launch import CALLS
class Device:
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 80, 32))
    get_current_device = staticmethod(lambda: 0)

driver.set_active(Device())
made, by_triton = {}, {}
for lengths in ((2, 4096, 10000), (3, 4099, 10007), (1, 17, 33), (1, 16, 48), (2, 1, 2_000_000)):
    cases.B, cases.T, cases.M = lengths
    for name, launch in CALLS.items():
        with recording("sm_80") as record:
            launch(cases)
        for kernel, _, arguments, tile in record.launches:
            job = resources.specialised(kernel, arguments)
            seen = (str(job["signature"]), str(sorted(job["constexprs"].items(), key=str)), tuple(job["attrs"]))
            made.setdefault((name, kernel.__name__), {})[seen] = lengths
            bind = kernel.device_caches[0][-1]
            _, found, _ = bind(**one_by_one(arguments), **options(tile))
            by_triton.setdefault((name, kernel.__name__), {})[str(found)] = lengths
for key, seen in [*made.items(), *by_triton.items()]:
    if len(seen) > 1:
        print(key, *seen.items(), sep="\\n")
        sys.exit(1)
print(len(made))
"""


def _decode(cases: Any, **has: Any) -> None:
    from kblam_kernels.dense import triton_decode

    triton_decode.forward(cases.dense_call(torch.bfloat16, 128, 1, **has))


def _single_pass(cases: Any) -> None:
    from kblam_kernels.dense import triton_forward

    triton_forward.forward(cases.dense_call(torch.bfloat16, 128, 1, **cases.everything()))


def _latent(cases: Any) -> None:
    from kblam_kernels.latent import triton_decode

    triton_decode.forward(cases.latent_call(torch.bfloat16, 384, torch.int8, 128))


def _evidence(cases: Any) -> None:
    from kblam_kernels.evidence import triton_mass

    triton_mass.forward(cases.evidence_call("latent", 32, 384, torch.bfloat16, torch.int8))


CALLS = {
    "single pass": _single_pass,
    "split decode": lambda cases: _decode(cases, **cases.everything()),
    "latent": _latent,
    "evidence": _evidence,
}


def test_no_length_compiles_again() -> None:
    """A growing cache or knowledge base, another batch: one machine code, with everything that may be there.

    As the resources command specialises a launch, and as Triton's own launcher does. So large a batch that groups of
    splits are folded takes another of attention to latents.
    """
    done = subprocess.run(
        [sys.executable, "-c", SIGNATURES],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "0"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) == 7, "four kernels, a merge, and both ends of attention to latents"


@pytest.mark.parametrize("way", TRITON_WAYS, ids=lambda way: way.name)
def test_every_launch_names_what_its_kernel_takes(way: Way) -> None:
    problem = next(iter(way.cases.values()))(torch.bfloat16)
    with recording("sm_80") as made, way.taken():
        problem.run("triton")
    assert made.launches
    for kernel, _, arguments, _ in made.launches:
        assert set(one_by_one(arguments)) == set(kernel.arg_names)
        for value in arguments.values():
            assert not isinstance(value, Heads) or value.data.dim() == 4
