"""The property head learns from questions about "it"; some phrasings are kept for the calibration."""

from __future__ import annotations

import dataclasses
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from kblam import AdapterConfig, KnowledgeAdapter
from kblam.adapter.property_head import EVERYTHING, PRONOUN, PropertyHead
from kblam.data.loose import LOOSE
from kblam.data.phrases import _text, blocks, further, phrases, specific
from kblam.data.properties import TYPED
from kblam.knowledge import Encoder
from kblam.knowledge.encoders import layered
from kblam.knowledge.identifiers import key
from kblam.training import properties
from kblam.training.properties import PropertyQuestions, bare, is_kept, is_not_kept, learn_head, with_head
from kblam.training.unlearned import unlearned
from kblam.training.vectors import Vectors
from tests.fakes import DeepEncoder, HashingEncoder


def test_each_question_is_about_its_property() -> None:
    drawn = PropertyQuestions.draw(["torque limit"], count=50_000, further_share=0.6)
    assert drawn.properties[0] == EVERYTHING
    assert set(drawn.properties) == {EVERYTHING, "torque limit", *TYPED, *further()}
    assert len(drawn.key_texts) == len(set(drawn.key_texts)) == len(drawn.properties)
    assert set(drawn.meant) > {0}
    assert all(PRONOUN in text.lower() for text in drawn.texts)
    own = [text for text, at in zip(drawn.texts, drawn.meant, strict=True) if drawn.properties[at] == "torque limit"]
    assert own
    assert all("torque limit" in text.lower() for text in own), "it has no phrasings of its own"
    one, again, other = (PropertyQuestions.draw(["torque limit"], count=1000, seed=seed) for seed in (0, 0, 1))
    assert one == again != other


def test_further_questions_come_up_equally_often() -> None:
    rows = [(template.format(n=PRONOUN), prop) for prop, asked in further().items() for template in asked]
    drawn = PropertyQuestions.draw(count=2 * len(rows) + 100, further_share=2 * len(rows) / (2 * len(rows) + 100))
    meant = [drawn.properties[at] for at in drawn.meant]
    assert Counter(zip(drawn.texts[:-100], meant[:-100], strict=True)) == dict.fromkeys(rows, 2)
    assert sum(drawn.kept[:-100]) / len(rows) == pytest.approx(0.4, abs=0.1), "a fifth of the properties, each twice"
    assert set(meant[-100:]) <= {EVERYTHING, *TYPED}
    assert drawn.further == (True,) * 2 * len(rows) + (False,) * 100
    few = PropertyQuestions.draw(count=100, further_share=0.5)
    assert len(few.texts) == len(few.meant) == len(few.kept) == len(few.further) == 100
    assert set(few.properties) == {EVERYTHING, *TYPED, *(few.properties[at] for at in few.meant)}
    alone = PropertyQuestions.draw(count=100, further_share=0)
    assert set(alone.properties) == {EVERYTHING, *TYPED}
    assert not any(alone.further)


def test_training_draws_every_further_question_and_those_of_the_training_world_as_well() -> None:
    drawn = PropertyQuestions.draw()
    assert len(drawn.texts) == properties.QUESTIONS
    rows = {(template.format(n=PRONOUN), prop) for prop, asked in further().items() for template in asked}
    meant = [drawn.properties[at] for at in drawn.meant]
    of_further = [row for row, one in zip(zip(drawn.texts, meant, strict=True), drawn.further, strict=True) if one]
    assert set(of_further) == rows
    assert len(of_further) == round(properties.QUESTIONS * properties.FURTHER_SHARE) < 1.1 * len(rows)


def test_your_own_properties_take_the_further_questions_for_them() -> None:
    assert "employer" in further()
    drawn = PropertyQuestions.draw(["lineManager", "Employer"], count=40_000, further_share=0.67)
    assert "employer" not in drawn.properties, "it is the base's Employer"
    texts = {text for text, at in zip(drawn.texts, drawn.meant, strict=True) if drawn.properties[at] == "Employer"}
    assert texts > {template.format(n=PRONOUN) for template in further()["employer"]}
    assert any("Employer" in text for text in texts), "and it is asked for by its name"
    assert "line manager" in drawn.properties


def test_every_further_question_means_one_property() -> None:
    asked = further()
    assert len(blocks(_text("further"))) == len(asked), "a heading that comes twice"
    assert set(asked) >= set(TYPED)
    assert len({key(prop) for prop in asked}) == len(asked) > 1000
    meant = [(bare(template), prop) for prop, templates in asked.items() for template in templates]
    assert len(dict(meant)) == len(meant)
    assert all(text.count("{") == text.count("}") == text.count("{n}") > 0 for text, _ in meant)
    # Nor do other phrasings of training mean another one by it.
    others = {(bare(one), prop) for prop, of in specific().items() for one in (*of.seen, *of.held_out)}
    others |= {(bare(one.replace("{p}", prop)), prop) for prop in asked for one in phrases("one").seen}
    known = dict(others)
    assert not [(text, prop) for text, prop in meant if known.get(text, prop) != prop]
    several = {bare(one) for one in (*LOOSE, *phrases("open").seen)}
    assert not several & dict(meant).keys()


def test_no_further_question_is_one_that_is_held_out() -> None:
    for prop, templates in further().items():
        held_out = [one.replace("{p}", prop) for one in phrases("one").held_out]
        held_out += specific()[prop].held_out if prop in specific() else ()
        assert not {bare(one) for one in held_out} & {bare(one) for one in templates}, prop


def test_a_further_question_in_a_phrasing_of_the_calibration_is_kept() -> None:
    drawn = PropertyQuestions.draw(count=30_000, further_share=1.0)
    kept = {
        (text, drawn.properties[at])
        for text, at, kept in zip(drawn.texts, drawn.meant, drawn.kept, strict=True)
        if kept
    }
    general = [one for one in phrases("one").seen if is_kept(one)]
    kept = {(text, prop) for text, prop in kept if prop not in unlearned()}
    wanted = {
        (template.format(n=PRONOUN), prop)
        for prop, templates in further().items()
        for template in templates
        if prop not in unlearned()
        and bare(template)
        in {bare(one.replace("{p}", prop)) for one in general}
        | {bare(one) for one in (specific()[prop].seen if prop in specific() else ()) if is_kept(one)}
    }
    assert kept == wanted
    assert len(wanted) > 100


def test_kept_phrasings_are_a_fifth_and_no_other_question_uses_them() -> None:
    assert is_kept("a") == (zlib.crc32(b"a") % 5 == 0) != is_not_kept("a")
    drawn = PropertyQuestions.draw(count=4000, further_share=0)
    assert sum(drawn.kept) / 4000 == pytest.approx(0.2, abs=0.03)
    # "What's the likelihood that it hits us?" is of one property alone, so its text tells its phrasing.
    sides = {text.format(n=PRONOUN).lower(): is_kept(text) for of in specific().values() for text in of.of(False)}
    told = [
        (sides[text.lower()], kept) for text, kept in zip(drawn.texts, drawn.kept, strict=True) if text.lower() in sides
    ]
    assert len(told) > 500
    # A property of which all phrasings are on one side is asked in those.
    assert sum(side == kept for side, kept in told) > 0.97 * len(told)


class ByWords(HashingEncoder):
    """A text is the sum of its words, so that texts with words in common are alike."""

    def encode(self, texts, **options):  # type: ignore[no-untyped-def]
        words = sorted({word for text in texts for word in text.lower().split()})
        of_words = dict(zip(words, super().encode(words), strict=True))
        return np.stack([sum(of_words[word] for word in text.lower().split()) for text in texts])


def test_a_head_learns_to_tell_properties_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(properties, "_HEADS", 2)
    monkeypatch.setattr(properties, "_ROWS", 128)
    drawn = PropertyQuestions.draw(count=1000, further_share=0)
    vectors = Vectors([*drawn.texts, *drawn.key_texts], ByWords(64), tmp_path)
    head = learn_head(drawn, vectors, steps=400)
    asked, keys = vectors.of(drawn.texts), head.keys(vectors.of(drawn.key_texts))
    hits = head.log_shares(asked, keys).argmax(-1) == torch.tensor(drawn.meant)
    assert hits.float().mean() > 0.5, "words tell most of them"
    assert not any(weight.requires_grad for weight in head.parameters())
    once, again = (learn_head(drawn, vectors, steps=3).question.weight for _ in range(2))
    assert torch.equal(once, again)
    part = learn_head(drawn, vectors, steps=400, all_phrasings=False)
    kept = torch.tensor(drawn.kept)
    of_part = part.log_shares(asked, part.keys(vectors.of(drawn.key_texts))).argmax(-1) == torch.tensor(drawn.meant)
    assert hits[kept].float().mean() - of_part[kept].float().mean() > 0.1, "it has never seen these"
    only = dataclasses.replace(drawn, kept=(True,) * len(drawn.kept))
    assert torch.isfinite(learn_head(only, vectors, steps=1, all_phrasings=False).question.weight).all()


def test_further_questions_are_a_share_of_each_step() -> None:
    weights = properties._weights(torch.tensor([False, True, False, True, False, False]))
    share = properties._FURTHER_ROWS
    torch.testing.assert_close(weights, torch.tensor([(1 - share) / 4, share / 2])[[0, 1, 0, 1, 0, 0]])
    for alone in (True, False):
        same = properties._weights(torch.full((3,), alone))
        assert same.min() == same.max() > 0


def test_each_step_compares_all_known_properties_those_asked_for_and_a_few_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = PropertyQuestions.draw(count=6000, further_share=0.9)
    vectors = Vectors([*drawn.texts, *drawn.key_texts], HashingEncoder(16), tmp_path)
    keys = vectors.of(drawn.key_texts) / vectors.scale
    place = {row.numpy().tobytes(): at for at, row in enumerate(keys)}
    known = {at for at, one in zip(drawn.meant, drawn.further, strict=True) if not one}
    compared = list[set[int]]()
    original = PropertyHead.keys

    def recorded(self: PropertyHead, vectors: torch.Tensor) -> torch.Tensor:
        compared.append({place[row.numpy().tobytes()] for row in vectors})
        return original(self, vectors)

    monkeypatch.setattr(PropertyHead, "keys", recorded)
    monkeypatch.setattr(properties, "_OTHERS", 20)
    learn_head(drawn, vectors, steps=10)
    assert len(known) < len(keys) - 500
    assert all(step >= known for step in compared)
    # Of the questions nine in ten are further ones, of a step's 15 %.
    others = [len(step - known) for step in compared]
    assert 0 < min(others) <= max(others) < 20 + 2 * properties._FURTHER_ROWS * properties._ROWS


def test_what_questions_are_brought_to_is_folded_into_the_map() -> None:
    torch.manual_seed(0)
    encodings = torch.randn(50, 24, dtype=torch.float64) * 3 + torch.randn(24, dtype=torch.float64) * 9
    spread = properties._Spread.of(encodings, 8)
    brought = spread.apply(encodings)
    torch.testing.assert_close(brought[:, :16].mean(0), torch.zeros(16, dtype=torch.float64))
    torch.testing.assert_close(brought[:, 16:] * encodings[0, 16] / brought[0, 16], encodings[:, 16:])
    for part in brought.split(8, -1):
        torch.testing.assert_close(part.norm(dim=-1).mean(), torch.ones((), dtype=torch.float64))
    maps = torch.nn.Linear(24, 5).double()
    wanted = maps(brought)
    spread.fold_into(maps)
    torch.testing.assert_close(maps(encodings), wanted)


def test_a_head_learns_from_a_layer_what_the_sentence_vectors_do_not_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(properties, "_HEADS", 1)
    monkeypatch.setattr(properties, "_ROWS", 128)

    class Below(DeepEncoder):
        """Sentence vectors have words of properties alone; those of questions are in a layer, in another order."""

        def encode(self, texts, **options):  # type: ignore[no-untyped-def]
            words = ByWords(self.dimension).encode(texts)
            is_key = np.array([[text.startswith("the ") and text.endswith(" of it")] for text in texts])
            return np.where(is_key, words, super().encode(texts))

        def encode_layers(self, texts, layers, **options):  # type: ignore[no-untyped-def]
            return np.concatenate([5 + ByWords(self.dimension).encode(texts)[:, ::-1], self.encode(texts)], axis=1)

    drawn = PropertyQuestions.draw(count=2000, further_share=0)
    encoder = Below(64)
    vectors = Vectors([*drawn.texts, *drawn.key_texts], layered(encoder, (3,)), tmp_path)
    fresh = PropertyQuestions.draw(count=500, further_share=0, seed=1)
    keys = torch.from_numpy(encoder.encode(drawn.key_texts))

    def right(head: PropertyHead, encoder: Encoder) -> float:
        asked = torch.from_numpy(encoder.encode(fresh.texts))
        return float((head.log_shares(asked, head.keys(keys)).argmax(-1) == torch.tensor(fresh.meant)).float().mean())

    with_layer = right(learn_head(drawn, vectors, layers=1, steps=600), layered(encoder, (3,)))
    plain = Vectors([*drawn.texts, *drawn.key_texts], encoder, tmp_path)
    assert with_layer > 0.1 > 3 * right(learn_head(drawn, plain, steps=100), encoder)


def test_several_heads_are_one_that_scores_as_their_mean() -> None:
    torch.manual_seed(0)
    heads = [PropertyHead(32, properties.WIDTH) for _ in range(3)]
    for head, scale in zip(heads, (0.5, 1.0, 4.0), strict=True):  # only directions count
        head.question.weight.data.mul_(scale)
        head.log_scale.data.fill_(1.5)
    questions, keys = torch.randn(40, 32), torch.randn(20, 32)

    def scores(head: PropertyHead) -> torch.Tensor:
        return head(questions, head.keys(keys)).detach()

    mean = properties._mean(heads, keys, questions)
    wanted = torch.stack([scores(head) for head in heads]).mean(0)
    assert (scores(mean) - wanted).abs().max() < 0.2 < wanted.abs().max()
    torch.testing.assert_close(scores(properties._mean(heads[:1] * 3, keys, questions)), scores(heads[0]))
    deep = [PropertyHead(16, properties.WIDTH, layers=1) for _ in range(2)]
    with torch.no_grad():
        for one in deep:
            one.question.bias.normal_()
    wanted = deep[0](questions, deep[0].keys(keys[:, :16])).detach()
    same = properties._mean(deep[:1] * 2, keys[:, :16], questions)
    torch.testing.assert_close(same(questions, same.keys(keys[:, :16])), wanted)


def test_the_mean_of_heads_that_read_layers_and_heads_that_do_not_reads_both() -> None:
    torch.manual_seed(0)
    deep, plain = PropertyHead(16, properties.WIDTH, layers=1), PropertyHead(16, properties.WIDTH)
    questions, keys = torch.randn(40, 32), torch.randn(20, 16)
    with torch.no_grad():
        deep.question.bias.normal_()
        plain.log_scale.fill_(1.5)
        deep.log_scale.fill_(1.5)
    mean = properties._mean([deep, plain], keys, questions)
    assert mean.question.in_features == 32
    scores = deep(questions, deep.keys(keys)), plain(questions[:, 16:], plain.keys(keys))
    wanted = torch.stack(scores).mean(0).detach()
    assert (mean(questions, mean.keys(keys)) - wanted).abs().max() < 0.2 < wanted.abs().max()


def test_every_second_head_reads_the_sentence_vector_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = PropertyQuestions.draw(count=50, further_share=0)
    vectors = Vectors([*drawn.texts, *drawn.key_texts], layered(DeepEncoder(16), (3,)), tmp_path)
    read, learned = list[int](), properties._learned

    def noted(*given, layers: int):  # type: ignore[no-untyped-def]
        read.append(layers)
        return learned(*given, layers=layers)

    monkeypatch.setattr(properties, "_learned", noted)
    head = learn_head(drawn, vectors, layers=1, steps=2)
    assert read == [1, 0] * (properties._HEADS // 2)
    of_plain = head.question.weight[properties.WIDTH : 2 * properties.WIDTH]
    assert not of_plain[:, :16].any()
    assert of_plain[:, 16:].any()


def test_of_properties_it_has_not_learned_it_knows_what_the_encoder_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Maps alone forget what two texts have in common if no question of the training needed it."""
    monkeypatch.setattr(properties, "_HEADS", 2)
    drawn = PropertyQuestions.draw(count=4000, further_share=0)
    vectors = Vectors([*drawn.texts, *drawn.key_texts], ByWords(64), tmp_path)
    known = len(drawn.properties) // 2
    rows = [row for row, at in enumerate(drawn.meant) if at < known]
    part = PropertyQuestions(
        drawn.properties[:known],
        *(tuple(all_[row] for row in rows) for all_ in (drawn.texts, drawn.meant, drawn.kept, drawn.further)),
    )
    head = learn_head(part, vectors, steps=100)
    fresh = [row for row, at in enumerate(drawn.meant) if at >= known]
    asked, meant = vectors.of(drawn.texts[row] for row in fresh), torch.tensor(drawn.meant)[fresh]

    def right() -> float:
        return float((head(asked, head.keys(vectors.of(drawn.key_texts))).argmax(-1) == meant).float().mean())

    with_cosine = right()
    assert head.log_cosine is not None
    head.log_cosine.fill_(-torch.inf)
    assert with_cosine > right() + 0.1


def test_an_adapter_gets_another_head_and_keeps_the_rest(tmp_path: Path) -> None:
    drawn = PropertyQuestions.draw(count=50, further_share=0)
    head = learn_head(drawn, Vectors([*drawn.texts, *drawn.key_texts], HashingEncoder(16), tmp_path), steps=2)
    torch.manual_seed(0)
    before = KnowledgeAdapter(AdapterConfig(16, 32, 2, 2, 16, question_head="linear"))
    older = with_head(before, PropertyHead(16, 5, cosine=False))  # of another form
    for adapter in (before, with_head(before, head), older):  # one that has none yet, and two that have
        after = with_head(adapter, head, known_above=0.3)
        assert (after.config.property_width, after.config.property_cosine) == (head.question.out_features, True)
        assert after.config.known_above == 0.3
        assert after.property_head is not None
        assert torch.equal(after.property_head.property.weight, head.property.weight)
        for name, weight in before.state_dict().items():
            assert torch.equal(after.state_dict()[name], weight)
    assert before.config.property_width == 0
