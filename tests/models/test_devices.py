"""Devices as tensors name them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from kblam.models.devices import execution_device


@pytest.mark.parametrize(("said", "expected"), [("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")])
def test_a_hooks_device_has_the_number_of_its_tensors(
    monkeypatch: pytest.MonkeyPatch, said: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    module = nn.Linear(1, 1)
    cast(Any, module)._hf_hook = SimpleNamespace(execution_device=said)
    assert execution_device(module) == torch.device(expected)
