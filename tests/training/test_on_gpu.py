"""A whole run on a GPU, the default device where there is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kblam.training.material import Material
from tests.training.conftest import HEADS, small
from tests.training.on_device import trained_and_resumed

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("head", HEADS)
def test_all_stages_run_where_the_model_is(prepared: Callable[..., Material], tmp_path: Path, head: str) -> None:
    made = prepared(**HEADS[head])
    material = dataclasses.replace(made, model=made.model.to("cuda:0"))
    trained_and_resumed(small(**HEADS[head]), material, tmp_path)
