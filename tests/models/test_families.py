"""Every family of the table, and one outside it: the same promises for each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, StaticCache

from kblam.models import FAMILIES, attach, detach
from tests.models.conftest import Tied, tie
from tests.models.tiny import (
    CONFIGS,
    OUTSIDE_THE_TABLE,
    WINDOW,
    close,
    differ,
    logits,
    prompts,
    select,
    stepwise,
    tiny_adapter,
    tiny_model,
    triples,
)

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(params=CONFIGS)
def each(request: pytest.FixtureRequest) -> Tied:
    return tie(request.param)


def test_the_tests_know_every_family_of_the_table() -> None:
    assert set(CONFIGS) == {*FAMILIES, OUTSIDE_THE_TABLE}
    assert OUTSIDE_THE_TABLE not in FAMILIES


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
def test_the_readme_has_a_row_of_every_family(family: object) -> None:
    title = FAMILIES[family.model_type].title  # type: ignore[attr-defined]
    assert title in README.read_text("utf-8")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", CONFIGS)
def test_without_knowledge_it_is_the_base_model_bit_for_bit(family: str, attention: str) -> None:
    model = tiny_model(family, attention=attention)
    ids, mask = prompts()
    padded, plain = logits(model, ids, mask), logits(model, ids)
    adapter = tiny_adapter(model)
    attachment = attach(model, adapter)
    assert torch.equal(logits(model, ids, mask), padded)
    assert torch.equal(logits(model, ids), plain)
    with attachment.using(triples(adapter, 9)):
        logits(model, ids, mask)
    assert torch.equal(logits(model, ids, mask), padded)
    detach(model)
    assert torch.equal(logits(model, ids, mask), padded)
    assert model.model.config._attn_implementation == attention


@pytest.mark.parametrize("masked", [True, False], ids=["padded", "unpadded"])
def test_knowledge_is_heard_and_hidden_knowledge_is_not(each: Tied, masked: bool) -> None:
    ids, mask = prompts(length=3 * WINDOW)
    mask = mask if masked else None
    base = logits(each.model, ids, mask)
    knowledge = triples(each.adapter, 9)
    with each.attachment.using(knowledge):
        heard = logits(each.model, ids, mask)
    assert differ(heard, base)
    # All hidden, and none there: the kernels then do the family's own attention, windows and scaling and all.
    for nothing, bias in ((knowledge, torch.full((9,), -float("inf"))), (select(knowledge, slice(0, 0)), 0.0)):
        with each.attachment.using(nothing, bias=bias):
            close(logits(each.model, ids, mask), base)


@pytest.mark.parametrize("masked", [True, False], ids=["padded", "unpadded"])
@pytest.mark.parametrize("prefill", [4, 10])
def test_cached_decoding_is_the_whole_prompt_at_once(each: Tied, masked: bool, prefill: int) -> None:
    ids, mask = prompts(length=16, padding=3)
    mask = mask if masked else None
    sizes = [prefill, *[1] * (16 - prefill)]
    with each.attachment.using(triples(each.adapter, 9)):
        whole = logits(each.model, ids, mask)
        close(stepwise(each.model, ids, mask, DynamicCache(config=each.model.config), sizes), whole)
        close(stepwise(each.model, ids, mask, StaticCache(config=each.model.config, max_cache_len=20), sizes), whole)


def test_a_prompt_in_pieces_is_the_whole_prompt_at_once(each: Tied) -> None:
    ids, mask = prompts(length=16, padding=3)
    sizes = [5, 4, 1, 3, 2, 1]
    with each.attachment.using(triples(each.adapter, 9)):
        whole = logits(each.model, ids, mask)
        close(stepwise(each.model, ids, mask, DynamicCache(config=each.model.config), sizes), whole)


def test_left_padding_does_not_matter(each: Tied) -> None:
    ids, mask = prompts(length=14)
    with each.attachment.using(triples(each.adapter, 9)):
        padded = logits(each.model, ids, mask)
        close(padded[:1, 4:], logits(each.model, ids[:1, 4:]))
        close(padded[1:], logits(each.model, ids[1:]))


def test_generation_is_the_same_with_every_cache(each: Tied) -> None:
    ids, mask = prompts()
    options = {"attention_mask": mask, "max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    with each.attachment.using(triples(each.adapter, 9)):
        dynamic = each.model.generate(ids, **options)
        uncached = each.model.generate(ids, **options, use_cache=False)
        static = each.model.generate(ids, **options, cache_implementation="static", disable_compile=True)
    assert torch.equal(dynamic, uncached)
    assert torch.equal(dynamic, static)
    assert not torch.equal(dynamic, each.model.generate(ids, **options))


def test_per_head_query_norms_apply_to_the_knowledge_query() -> None:
    for name, family in FAMILIES.items():
        attention = tiny_model(name).model.layers[0].self_attn
        norm = getattr(attention, "q_norm", None)
        assert family.query_norm == (None if norm is None else "q_norm")
        if family.query_norm is None:
            continue
        # What a query head makes is brought to one length: scaling the heads changes nothing.
        one = tie(name)
        ids, _ = prompts()
        with one.attachment.using(triples(one.adapter, 9)):
            before = logits(one.model, ids)
            for head in one.adapter.query_heads.values():
                head.weight.mul_(10)
            close(logits(one.model, ids), before, 1e-3)
