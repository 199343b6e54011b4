"""The name of the cache in the release of transformers that is here, and in the other ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from kblam.models import cache_name


class Older(nn.Module):
    """Before 5.24."""

    def forward(self, input_ids: Any, past_key_values: Any = None, **_: Any) -> Any:
        return past_key_values


class Newer(nn.Module):
    """From 5.24 on: the old name still works, with a warning."""

    def forward(self, input_ids: Any, cache: Any = None, **_: Any) -> Any:
        return cache


@pytest.mark.parametrize("module", [Older(), Newer()], ids=["before 5.24", "from 5.24 on"])
def test_a_module_gets_its_cache_by_its_own_name(module: nn.Module) -> None:
    cache = SimpleNamespace()
    assert module(1, **cache_name.as_argument(module, cache)) is cache


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_a_hook_finds_the_cache_by_either_name(name: str) -> None:
    cache = SimpleNamespace()
    assert cache_name.of_call({name: cache, "use_cache": True}) is cache
    assert cache_name.of_call({"past_key_values": None}) is None
    assert cache_name.of_call({}) is None


def test_a_cache_by_its_older_name_is_taken_by_the_modules() -> None:
    old, new = SimpleNamespace(), SimpleNamespace()
    assert cache_name.as_taken(Older(), {"past_key_values": old, "top_k": 3}) == {"past_key_values": old, "top_k": 3}
    assert cache_name.as_taken(Newer(), {"past_key_values": old, "top_k": 3}) == {"cache": old, "top_k": 3}
    assert cache_name.as_taken(Newer(), {"past_key_values": old, "cache": new}) == {"cache": new}
    assert cache_name.as_taken(Newer(), {"top_k": 3}) == {"top_k": 3}
