"""Triton's interpreter for the decode kernels."""

from __future__ import annotations

import os
from types import ModuleType

import pytest


@pytest.fixture
def interpreted(poisoned_memory: None) -> ModuleType:
    """`latent.triton_decode` under Triton's interpreter; memory from `torch.empty` is NaN until it is written."""
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("TRITON_INTERPRET=0: kernels are compiled in this run")
    from kblam_kernels.latent import triton_decode

    return triton_decode
