"""The device computes what the CPU does, and refuses what a GPU refuses."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.elsewhere.device import Elsewhere, waits


def test_it_computes(there: torch.device) -> None:
    made = [torch.tensor([1.0, 2.0], device=there), torch.ones(2).to(there), torch.zeros(2, device=there)]
    made[2][1] = 5
    made[0].mul_(2)
    assert all(isinstance(one, Elsewhere) and one.device == there for one in made)
    total = (made[0] + made[1] * made[2])[torch.tensor([1, 0])]
    assert total.device == there
    assert total.cpu().tolist() == total.tolist() == [9, 2]
    assert total.sum().item() == 11
    assert bool((total + torch.tensor(1.0) == torch.tensor([10.0, 3.0], device=there)).all())


def test_gradients_lie_where_the_weights_do(there: torch.device) -> None:
    here = nn.Linear(3, 2)
    layer = nn.Linear(3, 2).to(there)
    layer.load_state_dict(here.state_dict())
    for one, where in ((here, "cpu"), (layer, there)):
        nn.functional.gelu(one(torch.ones(4, 3, device=where))).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.device == there
    assert torch.equal(layer.weight.grad.cpu(), here.weight.grad)  # type: ignore[arg-type]


def test_it_is_saved_and_loaded(there: torch.device) -> None:
    file = io.BytesIO()
    torch.save({"weight": torch.arange(3, device=there)}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)["weight"]
    assert loaded.device == there
    assert loaded.tolist() == [0, 1, 2]


REFUSED: dict[str, tuple[type[Exception], Callable[[Tensor], Any]]] = {
    "two devices": (RuntimeError, lambda one: one + torch.ones(3)),
    "two devices in a list": (RuntimeError, lambda one: torch.cat([one, torch.ones(3)])),
    "two devices in place": (RuntimeError, lambda one: one.add_(torch.ones(3))),
    "an index of gather": (RuntimeError, lambda one: one.gather(0, torch.tensor([1]))),
    "an index of index_select": (RuntimeError, lambda one: one.index_select(0, torch.tensor([1]))),
    "what is put in": (RuntimeError, lambda one: one.index_put_((torch.tensor([1, 2]),), torch.ones(2))),
    "a sum on the CPU": (RuntimeError, lambda one: torch.zeros(()).add_(one.sum())),
    "an index that is one number": (RuntimeError, lambda one: one.index_select(0, torch.tensor(1))),
    "a mask": (RuntimeError, lambda one: one.masked_fill(torch.ones(3, dtype=torch.bool), 0)),
    "a product": (RuntimeError, lambda one: one @ torch.ones(3, 2)),
    "a generator of the CPU": (
        RuntimeError,
        lambda one: torch.randn(3, device=one.device, generator=torch.Generator()),
    ),
    "a generator in place": (RuntimeError, lambda one: one.normal_(generator=torch.Generator())),
    "NumPy": (TypeError, lambda one: one.numpy()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_gpu_refuses(there: torch.device, name: str) -> None:
    error, asked = REFUSED[name]
    with pytest.raises(error, match=r"device|numpy"):
        asked(torch.ones(3, device=there))


def test_where_the_host_waits(there: torch.device) -> None:
    one, kept = torch.arange(3, device=there), torch.zeros(3, dtype=torch.int64)
    with waits() as seen:
        assert (one + torch.tensor(1)).max() is not None
    assert seen == []
    waiting: list[Callable[[], Any]] = [
        lambda: one.cpu(),
        lambda: kept.copy_(one),
        lambda: one.max().item(),
        lambda: bool(one.any()),
        lambda: one.tolist(),
        lambda: one[one > 1],
        lambda: one.unique(),
        lambda: one.nonzero(),
    ]
    for ask in waiting:
        with waits() as seen:
            ask()
        assert len(seen) == 1, seen
        assert seen[0].startswith("test_device.py:")
