"""Eager calls that Triton serves go past PyTorch's dispatcher, unless somebody looks at ops."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from kblam_kernels import RectangularAttention, rectangular_attention
from kblam_kernels.common.op import Op
from kblam_kernels.dense.op import dense_attention
from kblam_kernels.latent.op import latent_attention
from tests.kernels.attention.test_decoding import dense, latent, step


class Counted:
    """Calls of one overload of the dispatcher, and what they were: it stands in for the overload."""

    def __init__(self, op: Op[Any], patch: pytest.MonkeyPatch) -> None:
        self.count, self._made = 0, op.overload
        patch.setattr(op, "overload", self)

    def __call__(self, *arguments: Any) -> Any:
        self.count += 1
        return self._made(*arguments)


@torch.no_grad()
@pytest.mark.parametrize(("knowledge", "op"), [(dense, dense_attention), (latent, latent_attention)])
def test_a_step_by_triton_calls_no_op_of_the_dispatcher(
    knowledge: Callable[[], Any], op: Op[Any], interpreted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits and launches of a call through the op."""
    launched: list[str] = []
    launch = importlib.import_module("kblam_kernels.common.launch").launch

    def counted_launch(kernel: Any, *arguments: Any, **more: Any) -> None:
        launched.append(kernel.__name__)
        launch(kernel, *arguments, **more)

    folder = op.name.removesuffix("_attention")
    monkeypatch.setattr(importlib.import_module(f"kblam_kernels.{folder}.triton_decode"), "launch", counted_launch)
    attend = RectangularAttention(knowledge(), backend="triton")
    counted = Counted(op, monkeypatch)
    attend.plan(*step(1, 4))
    straight = attend.run(*step(1, 4))
    assert counted.count == 0
    once, launched[:] = list(launched), []
    with torch.enable_grad():  # nothing of this needs one, but it goes the way of those that do
        through_the_op = attend.run(*step(1, 4))
    assert counted.count == 1
    assert launched == once
    assert len(once) == {"dense": 2, "latent": 3}[folder]
    assert all(torch.equal(a, b) for a, b in zip(straight, through_the_op, strict=True))


@torch.no_grad()
def test_who_looks_at_ops_sees_those_by_triton(interpreted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Looking(TorchDispatchMode):
        names: ClassVar[list[str]] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(func.name())
            return func(*args, **(kwargs or {}))

    class Special(torch.Tensor):
        pass

    attend = RectangularAttention(dense(), backend="triton")
    attend.plan(*step(1, 4))
    with Looking() as looking:
        attend.run(*step(1, 4))
    assert "kblam_kernels::dense_attention" in looking.names
    counted = Counted(dense_attention, monkeypatch)
    query, key, value, r = step(1, 4)
    attend.run(query.as_subclass(Special), key, value, r)
    assert counted.count == 1
    with FakeTensorMode(allow_non_fake_inputs=True) as fakes:
        output, _ = attend.run(*map(fakes.from_tensor, step(1, 4)))
    assert isinstance(output, FakeTensor)
    assert counted.count == 2


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("knowledge", [dense, latent])
def test_a_trace_has_the_op_by_triton(knowledge: Callable[[], Any], interpreted: None) -> None:
    """torch.jit.trace, and the export to ONNX that is made of it, see no launch: it would return what it was traced
    with, or memory that nobody writes.
    """
    held = knowledge()

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, r: torch.Tensor) -> Any:
        return rectangular_attention(query, key, value, held, r, return_lse=True, backend="triton")

    traced = torch.jit.trace(attention, step(1, 4), check_trace=False)
    other = step(1, 4, seed=1)
    for got, expected in zip(traced(*other), attention(*other), strict=True):
        assert torch.equal(got, expected)
