"""Whether the model that vLLM has loaded is the one that an adapter was trained for."""

from __future__ import annotations

from typing import Any

from kblam.adapter import AdapterConfig
from kblam.vllm.families import ServedFamily


def check_base(model: Any, family: ServedFamily, config: AdapterConfig) -> None:
    """placeholder"""
