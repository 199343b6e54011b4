"""The mask in transformers' registry: one flag per key column."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kblam.errors import KnowledgeError
from kblam.models.masks import knowledge_mask
from tests.models.conftest import Tied
from tests.models.tiny import close, logits, prompts, triples

PADDED = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
FULL = torch.ones(2, 6, dtype=torch.bool)


def mask(q_length: int, kv_length: int, q_offset: Any = 0, **options: Any) -> list[list[int]] | None:
    found = knowledge_mask(2, q_length, kv_length, q_offset, **options)
    assert found is None or found.dtype == torch.bool
    return None if found is None else found.int().tolist()


def test_nothing_hidden_is_no_mask() -> None:
    assert mask(6, 6) is None
    assert mask(6, 6, attention_mask=FULL) is None
    assert mask(1, 6, 5, attention_mask=FULL) is None


def test_padding_is_hidden() -> None:
    assert mask(6, 6, attention_mask=PADDED) == PADDED.int().tolist()
    assert mask(1, 6, 5, attention_mask=PADDED) == PADDED.int().tolist()
    assert mask(6, 6, attention_mask=PADDED.long()) == PADDED.int().tolist()


def test_a_sliding_cache_takes_the_last_columns() -> None:
    assert mask(1, 4, 5, kv_offset=2, attention_mask=PADDED[:, :6]) is None
    assert mask(1, 5, 5, kv_offset=1, attention_mask=PADDED) == [[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize("offset", [3, torch.tensor(3)], ids=["int", "tensor"])
def test_a_static_cache_hides_what_is_not_yet_written(offset: int | Tensor) -> None:
    assert mask(1, 8, offset) == [[1, 1, 1, 1, 0, 0, 0, 0]] * 2
    assert mask(1, 8, offset, attention_mask=PADDED[:, :4]) == [[0, 0, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]
    whole_length = torch.nn.functional.pad(PADDED, (0, 2), value=True)
    assert mask(1, 8, offset, attention_mask=whole_length) == [[0, 0, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]


@pytest.mark.parametrize("offset", [0, torch.tensor(0)], ids=["int", "tensor"])
def test_a_prompt_into_a_static_cache_cuts_it(offset: int | Tensor) -> None:
    assert mask(6, 8, offset) == [[1] * 6] * 2
    assert mask(6, 8, offset, attention_mask=PADDED) == PADDED.int().tolist()


def test_a_pattern_that_is_not_causal_is_refused() -> None:
    with pytest.raises(KnowledgeError, match="attend causally to one sequence per row"):
        mask(6, 6, allow_is_causal_skip=False)
    mask(1, 8, 3, allow_is_causal_skip=False)  # what a static cache says of every decoded token


def test_packed_sequences_are_refused(tied: Tied) -> None:
    ids, _ = prompts(padding=0)
    packed = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]]).expand(2, 10)
    straight = torch.arange(10)[None].expand(2, 10)
    with tied.attachment.using(triples(tied.adapter, 9)), torch.no_grad():
        expected = logits(tied.model, ids)
        close(tied.model(ids, position_ids=straight, use_cache=False).logits, expected)
        with pytest.raises(KnowledgeError, match="position_ids pack several sequences"):
            tied.model(ids, position_ids=packed, use_cache=False)


def test_a_prepared_mask_of_four_dimensions_is_refused(tied: Tied) -> None:
    ids, _ = prompts()
    with (
        tied.attachment.using(triples(tied.adapter, 9)),
        pytest.raises(ValueError, match=r"prompt_mask must be bool \(B=2, T=10\); got .*\(2, 1, 10, 10\)"),
    ):
        tied.model(ids, attention_mask=torch.ones(2, 1, 10, 10))
