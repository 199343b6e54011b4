"""The mask in transformers' registry: one flag per key column."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from kblam.errors import KnowledgeError
from kblam.models.masks import knowledge_mask
from tests.models.conftest import Tied, tie
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


def prepared(mask: Tensor, queries: int | None = None) -> Tensor:
    """(B, 1, N, T) bool, as `create_causal_mask` makes it of flags."""
    T = mask.shape[1]
    causal = torch.ones(T, T, dtype=torch.bool).tril()[-(queries or T) :]
    return (mask.bool()[:, None] & causal)[:, None]


def additive(visible: Tensor, hidden: float) -> Tensor:
    return torch.zeros(visible.shape).masked_fill(~visible, hidden)


@pytest.mark.parametrize("padding", [0, 4])
def test_a_prepared_mask_says_what_its_flags_say(tied: Tied, padding: int) -> None:
    ids, flags = prompts(padding=padding)
    forms = [prepared(flags), additive(prepared(flags), -torch.inf), additive(prepared(flags), torch.finfo().min)]
    forms.append(forms[0] | ~forms[0].any(-1, keepdim=True))  # some libraries let padding see everything
    real = flags[..., None]
    with tied.attachment.using(triples(tied.adapter, 9)), torch.no_grad():
        expected = logits(tied.model, ids, flags)
        for form in forms:
            close(tied.model(ids, attention_mask=form).logits * real, expected)
        first = tied.model(ids[:, :7], attention_mask=forms[0][:, :, :7, :7], use_cache=True)
        rest = tied.model(
            ids[:, 7:], attention_mask=prepared(flags, 3), past_key_values=first.past_key_values, use_cache=True
        )
        close(torch.cat([first.logits, rest.logits], 1) * real, expected)


def packed(ids: Tensor) -> Tensor:
    which = torch.arange(ids.shape[1]) // 5
    return prepared(torch.ones_like(ids)) & (which == which[:, None])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mask: mask.long(), "is bool, or floating with 0 and -inf; got torch.int64"),
        (lambda mask: mask.float(), "weighs columns"),
        (lambda mask: mask.expand(-1, 4, -1, -1), "a part for each of 4 heads"),
        (torch.ones_like, "hides more than padding and what comes later"),
        (lambda mask: mask & packed(torch.zeros(2, 10)), "hides more than padding and what comes later"),
        # What is no mask of flags either.
        (lambda mask: mask[0, 0, -1], "is of 1 dimensions"),
        (lambda mask: mask[:, 0], "is of 3 dimensions"),
        (lambda mask: mask[:, None], "is of 5 dimensions"),
        (lambda mask: {"full_attention": mask}, "is a dict"),
        (lambda mask: mask.tolist(), "is a list"),
    ],
    ids=["int64", "weights", "heads", "both ways", "packed", "1", "3", "5", "dict", "list"],
)
def test_a_prepared_mask_that_says_more_is_refused_with_the_fix(tied: Tied, change: Any, words: str) -> None:
    ids, flags = prompts(padding=0)
    with (
        tied.attachment.using(triples(tied.adapter, 9)),
        pytest.raises(KnowledgeError, match=rf"{words}.*pass attention_mask \(B, T\)"),
    ):
        tied.model(ids, attention_mask=change(prepared(flags)))


def test_a_prepared_mask_is_refused_where_layers_have_a_window() -> None:
    short = tie("mistral")  # its window is 6
    ids, flags = prompts(padding=0)
    with short.attachment.using(triples(short.adapter, 9)), torch.no_grad():
        within = logits(short.model, ids[:, :6], flags[:, :6])
        close(short.model(ids[:, :6], attention_mask=prepared(flags[:, :6])).logits, within)
        with pytest.raises(KnowledgeError, match="a window of 6 tokens, which a mask of 4 dimensions replaces"):
            short.model(ids, attention_mask=prepared(flags))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.float32], ids=str)
def test_generate_takes_flags_of_any_dtype(tied: Tied, dtype: torch.dtype) -> None:
    ids, flags = prompts()
    with tied.attachment.using(triples(tied.adapter, 9)):
        said = [
            tied.model.generate(each, attention_mask=mask, max_new_tokens=6, do_sample=False)
            for each, mask in ((ids, flags), (ids, flags.to(dtype)), (ids.to(torch.int32), flags.to(dtype)))
        ]
    assert torch.equal(said[0], said[1])
    assert torch.equal(said[0], said[2])


HIDDEN = torch.full((9,), -torch.inf)
OTHER_WIDTHS = {
    "longer": lambda flags: torch.cat([flags, torch.zeros(2, 4, dtype=torch.long)], 1),
    "shorter": lambda flags: torch.ones(2, 6, dtype=torch.long),
    "shorter, padded": lambda flags: flags[:, :6],
    "of nothing": lambda flags: flags[:, :0],
}


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text"])
@pytest.mark.parametrize("width", OTHER_WIDTHS)
def test_flags_of_another_width_say_what_they_say_to_the_model(family: str, width: str) -> None:
    tied = tie(family)
    ids, flags = prompts()
    mask = OTHER_WIDTHS[width](flags)
    with torch.no_grad():
        expected = tied.model(ids, attention_mask=mask).logits
        with tied.attachment.using(triples(tied.adapter, 9), bias=HIDDEN):
            found = tied.model(ids, attention_mask=mask).logits
    seen = torch.nn.functional.pad(mask, (0, max(10 - mask.shape[1], 0)))[:, :10, None]  # padding has no meaning
    close(found * seen, expected * seen)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("flags_of_step", ["the whole length at once", "the new tokens alone"])
def test_flags_of_another_width_while_decoding(tied: Tied, cache: str, flags_of_step: str) -> None:
    ids, flags = prompts()

    def decoded() -> Tensor:
        config, seen, pieces = tied.model.config, 0, []
        kept = DynamicCache(config=config) if cache == "dynamic" else StaticCache(config=config, max_cache_len=16)
        for size in (5, 1, 1, 3):
            mask = flags if flags_of_step == "the whole length at once" else flags[:, seen : seen + size]
            out = tied.model(ids[:, seen : seen + size], attention_mask=mask, past_key_values=kept, use_cache=True)
            pieces.append(out.logits)
            seen += size
        return torch.cat(pieces, 1) * flags[..., None]

    with torch.no_grad():
        expected = decoded()
        with tied.attachment.using(triples(tied.adapter, 9), bias=HIDDEN):
            close(decoded(), expected)


def test_a_prepared_mask_has_a_row_of_each_new_token_and_a_column_of_each_that_was_seen(tied: Tied) -> None:
    ids, _ = prompts(padding=0)
    with tied.attachment.using(triples(tied.adapter, 9)), torch.no_grad():
        with pytest.raises(KnowledgeError, match=r"1 rows and 10 columns, where 10 new tokens see up to 10; pass"):
            tied.model(ids, attention_mask=torch.ones(2, 1, 1, 10, dtype=torch.bool))
        first = tied.model(ids[:, :9], use_cache=True)
        one = torch.ones(2, 1, 1, 1, dtype=torch.bool)
        with pytest.raises(KnowledgeError, match=r"1 rows and 1 columns, where 1 new tokens see up to 10"):
            tied.model(ids[:, 9:], attention_mask=one, past_key_values=first.past_key_values, use_cache=True)


def test_a_mask_by_position_is_read_as_one_by_name(tied: Tied) -> None:
    ids, flags = prompts()
    with tied.attachment.using(triples(tied.adapter, 9)), torch.no_grad():
        expected = tied.model.model(input_ids=ids, attention_mask=flags).last_hidden_state * flags[..., None]
        for mask in (flags, prepared(flags)):
            close(tied.model.model(ids, mask).last_hidden_state * flags[..., None], expected)
