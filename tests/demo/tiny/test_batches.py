"""Training batches: labels, where the evidence is, what a row may see."""

from __future__ import annotations

import math

import pytest
import torch

from kblam.adapter.config import REFUSAL
from kblam.data.batch import IGNORE
from kblam.data.questions import TERSE_QUESTIONS
from kblam.demo.tiny.batches import BatchBuilder, Mixture
from kblam.demo.tiny.tokenizer import build_tokenizer
from kblam.training.losses import FIRST_EVIDENCE_WEIGHT, evidence_weight
from tests.demo.tiny.small import tiny_cache, tiny_world

TOKENIZER = build_tokenizer()
WORLD = tiny_world()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield tiny_cache(WORLD, tmp_path_factory.mktemp("cache"), patch)


def builder_for(cache, **options) -> BatchBuilder:
    return BatchBuilder(WORLD, cache, TOKENIZER, seed=3, mixture=Mixture(rows=32, **options))


def answer_of(batch, row: int) -> str:
    labels = batch.labels[row]
    return TOKENIZER.decode(labels[labels != IGNORE], skip_special_tokens=True)


def test_labels_are_the_next_tokens_of_the_answer_alone(cache) -> None:
    (batch,) = builder_for(cache).build(40)
    for row in range(len(batch.labels)):
        places = (batch.labels[row] != IGNORE).nonzero().squeeze(1)
        assert places[0] == batch.first[row]
        assert batch.input_ids[row, batch.first[row]] == TOKENIZER.sep_token_id
        inner = places[:-1]
        assert torch.equal(batch.labels[row, inner], batch.input_ids[row, inner + 1])


def test_evidence_points_at_the_triple_whose_value_is_being_written(cache) -> None:
    (batch,) = builder_for(cache, refusals=0.0, pairs=0.5, brief=False).build(40)
    for row, position, triple in batch.evidence.tolist():
        value = cache.texts[batch.value_rows[triple]]
        if position == batch.first[row]:
            assert value in answer_of(batch, row)
        else:
            piece = TOKENIZER.decode(batch.labels[row, position]).removeprefix("##")
            assert piece in value
        assert batch.bias[row, triple] == 0.0


def test_refused_rows_have_no_evidence_and_say_so(cache) -> None:
    (batch,) = builder_for(cache, refusals=1.0, whole_refusals=1.0).build(40)
    assert bool(batch.refused.all())
    assert len(batch.evidence) == 0
    assert {answer_of(batch, row) for row in range(len(batch.labels))} == {REFUSAL.lower()}


def test_a_short_refusal_still_trains_the_token_that_decides(cache) -> None:
    (batch,) = builder_for(cache, refusals=1.0, whole_refusals=0.0).build(40)
    assert bool(((batch.labels != IGNORE).sum(1) == 2).all())


def test_a_refused_fact_is_never_visible(cache) -> None:
    builder = builder_for(cache, refusals=1.0, partial_view=0.0, virtual=0.0)
    (batch,) = builder.build(40)
    keys = [cache.texts[row] for row in batch.key_rows]
    for row in range(len(batch.labels)):
        question = TOKENIZER.decode(batch.input_ids[row, 1 : batch.first[row]])
        for index in (batch.bias[row] == 0).nonzero().squeeze(1).tolist():
            _, prop, _, name = keys[index].split(" ", 3)
            asked = f" {TOKENIZER.decode(TOKENIZER.encode(name, add_special_tokens=False))} " in f" {question} "
            assert not (asked and prop in question.split()), (question, keys[index])


def test_virtual_size_weighs_distractors_and_spares_near_misses(cache) -> None:
    builder = builder_for(cache, refusals=0.0, pairs=0.0, partial_view=0.0, virtual=1.0, grid_batches=1.0)
    (batch,) = builder.build(40, virtual_triples=100_000)
    row, _, triple = batch.evidence[:, 0], batch.evidence[:, 1], batch.evidence[:, 2]
    assert bool((batch.bias[row, triple] == 0).all())
    names = [cache.texts[key].split(" of ", 1)[1].lower().split() for key in batch.key_rows]
    for number in range(len(batch.labels)):
        true = int(triple[row == number][0])
        near = [i for i, name in enumerate(names) if i != true and set(name) & set(names[true])]
        assert batch.bias[number, near].max() <= math.log(3.0) + 1e-6
    assert batch.bias.max() > math.log(3.0)
    assert batch.bias.max() <= math.log(100_000 / 40)


def test_partial_views_hide_triples_but_never_the_needed_one(cache) -> None:
    builder = builder_for(cache, refusals=0.0, partial_view=1.0, virtual=0.0)
    (batch,) = builder.build(40)
    assert bool(torch.isinf(batch.bias).any())
    assert bool((batch.bias[batch.evidence[:, 0], batch.evidence[:, 2]] == 0).all())


def test_parts_hold_every_row_once_and_short_rows_apart(cache) -> None:
    whole = builder_for(cache).build(40)[0]
    short, long = builder_for(cache).build(40, parts=2)
    assert len(short.labels) + len(long.labels) == len(whole.labels)
    assert short.input_ids.shape[1] < long.input_ids.shape[1] == whole.input_ids.shape[1]
    assert len(short.evidence) + len(long.evidence) == len(whole.evidence)


def test_the_seed_decides_everything(cache) -> None:
    first, again = (builder_for(cache).build(40)[0] for _ in range(2))
    assert torch.equal(first.input_ids, again.input_ids)
    assert torch.equal(first.bias, again.bias)


def test_the_place_that_decides_weighs_more_in_the_retrieval_term(cache) -> None:
    (batch,) = builder_for(cache, refusals=0.0).build(40)
    row, position, _ = batch.evidence.unbind(1)
    weight = evidence_weight(batch)
    decides = position == batch.first[row]
    assert int(decides.sum()) == len(batch.labels)
    assert set(weight[decides].tolist()) == {FIRST_EVIDENCE_WEIGHT}
    assert set(weight[~decides].tolist()) == {1.0}


def test_terse_questions_have_their_share(cache) -> None:
    (terse,) = builder_for(cache, pairs=0.0, terse=1.0).build(40)
    (plain,) = builder_for(cache, pairs=0.0, varied=False).build(40)
    # Bare, or within an opening and a closing of a few words.
    lengths = [batch.first.float().median() for batch in (terse, plain)]
    assert lengths[0] < lengths[1]
    assert all("{n}" in template and "{p}" in template for template in TERSE_QUESTIONS)
