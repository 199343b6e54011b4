"""A seed decides one answer, and leaves the randomness of everything else as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from kblam.generation.pieces import seeded
from kblam.test import _tiny_llama


@pytest.fixture
def reseeded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which GPUs' generators were seeded."""
    found: list[str] = []
    current = ["cuda:0"]

    @contextlib.contextmanager
    def on(device: torch.device) -> Iterator[None]:
        current.append(str(device))
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: found.append("all"))
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: found.append(current[-1]))
    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())
    return found


def test_a_model_for_a_check_reseeds_no_gpu(reseeded: list[str]) -> None:
    _tiny_llama()
    assert reseeded == []


def test_an_answer_on_one_gpu_of_several_reseeds_that_one(reseeded: list[str]) -> None:
    with seeded(7, torch.device("cuda:1")):
        pass
    assert reseeded == ["cuda:1"]
