"""A decode step of a layer of latents: three launches, with nothing of PyTorch's own between them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from kblam_kernels.common.launch import recording
from kblam_kernels.common.tiles import Arch
from kblam_kernels.latent import triton_decode
from kblam_kernels.latent.op import latent_attention
from kblam_kernels.tools import cases as compiled


class Computed(TorchDispatchMode):
    """Names of PyTorch's own ops that write memory."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and not func.name().startswith("aten::empty"):
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("B", [1, 32])
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_a_decode_step_of_a_layer_is_three_launches(arch: Arch, B: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "B", B)
    call = compiled.latent_call(torch.bfloat16, 384, torch.bfloat16, 128)
    with recording(arch) as made, Computed() as computed:
        latent_attention.named("triton").forward(call)
    names = [each.kernel.__name__ for each in made.launches]
    assert names == ["latent_absorb_kernel", "latent_decode_kernel", "latent_project_kernel"]
    assert computed.names == []


@pytest.mark.parametrize(
    ("arch", "M", "follows"),
    [("sm_90", 500, [False, True, True]), ("sm_90", 0, [False, True, False]), ("sm_80", 500, [False, False, False])],
)
def test_on_hopper_a_launch_starts_before_the_one_before_it_has_ended(
    arch: Arch, M: int, follows: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits by itself; without knowledge the second is not launched, and nobody waits for it."""
    told: list[tuple[bool, bool]] = []
    made = triton_decode.launch

    def launch(*arguments: Any, follows: bool = False, **more: Any) -> None:
        told.append((follows, more["CHAINED"]))
        made(*arguments, follows=follows, **more)

    monkeypatch.setattr(triton_decode, "launch", launch)
    monkeypatch.setattr(compiled, "M", M)
    with recording(arch):
        triton_decode.forward(compiled.latent_call(torch.bfloat16, 384, torch.bfloat16, 128))
    assert told == [(each, arch == "sm_90") for each in follows]
