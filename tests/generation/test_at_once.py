"""Answers that are written at once are those that `generate` says token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import WatermarkingConfig

from kblam import KnowledgeBase, Session, Triple
from kblam.adapter.confidence import Confidence
from kblam.generation import session as session_module
from kblam.generation.answer import Answer
from kblam.generation.at_once import IN_BATCHES
from kblam.generation.decision import Unknown
from kblam.generation.evidence import EvidenceRecorder
from kblam.generation.options import Generating
from kblam.generation.prompt import encode_question, left_padded
from kblam_kernels import top_evidence
from kblam_kernels.evidence import blocks
from tests.generation.asking import FACTS, Asked, QuestionEncoder, asking, attached, byte_bpe, sentence_piece
from tests.generation.test_pointer import CURRENCY, EURO, FOUNDER
from tests.generation.tiny import EMBEDDING_DIM

STONE = "What is the age of a stone?"
QUESTIONS = [
    CURRENCY,
    STONE,
    FOUNDER,
    "What is the currency of France and the budget of Project Nightjar?",
    "Tell me about Project Nightjar.",
]
# Nearly the mass alone, as the tiny model's attention is right.
BY_MASS = Confidence(mass=4.0, name=0.5, property=0.5, other=0.0, share=0.0, bias=-1.0)


@pytest.fixture(params=[byte_bpe, sentence_piece], ids=["byte BPE", "SentencePiece"])
def asked(request: pytest.FixtureRequest) -> Iterator[Asked]:
    with asking(request.param(), confidence=BY_MASS) as found:
        yield found


def both_ways(session: Session, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[list[Answer], list[Answer]]:
    """What is written at once, and what `generate` says token by token."""
    at_once = session.ask_many(QUESTIONS, **options)
    with monkeypatch.context() as patched:
        patched.setattr(Generating, "is_plain", False)
        return at_once, session.ask_many(QUESTIONS, **options)


def assert_alike(at_once: list[Answer], one_by_one: list[Answer]) -> None:
    for quick, slow in zip(at_once, one_by_one, strict=True):
        assert told(quick) == told(slow)
        assert quick.knowledge_mass == pytest.approx(slow.knowledge_mass, abs=1e-5)
        masses = [[item.mass for item in answer.evidence] for answer in (quick, slow)]
        assert masses[0] == pytest.approx(masses[1], abs=1e-5)


@pytest.mark.parametrize("tokens", [None, 4])
def test_triples_found_in_blocks_of_a_list_are_the_same(
    asked: Asked, tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers, evidence and masses, and blocks were asked for, by prompts and by answers, some tokens at a time."""
    session, asked_for = asked.session(), list[int]()
    expected = session.ask_many(QUESTIONS)

    def counted(*given: Any, **options: Any) -> Any:
        asked_for.append(options["block_max"].shape[0])
        return top_evidence(*given, **options)

    monkeypatch.setattr("kblam.generation.evidence.top_evidence", counted)
    monkeypatch.setattr("kblam.models.lse.IN_BLOCKS_FROM", 1)
    monkeypatch.setattr(blocks, "FEW", 2.0)  # of so few blocks all are read
    if tokens is not None:
        heads = asked.model.config.num_attention_heads
        monkeypatch.setattr("kblam.models.lse.MOST_MAXIMA", len(QUESTIONS) * heads * tokens)
    found = session.ask_many(QUESTIONS)
    assert_alike(found, expected)
    assert [told(one) for one in found] == [told(one) for one in expected]
    lengths, step = [one.num_tokens - 1 for one in found], tokens or IN_BATCHES
    starts = range(0, max(lengths), step)
    wanted = [sum(one > at for one in lengths) * min(step, max(lengths) - at) for at in starts]
    assert asked_for[-len(wanted) :] == wanted, "of the answers that have not ended, so many tokens"
    assert len(asked_for) > len(wanted), "the prompts"


def test_one_answer_is_read_as_far_as_maxima_have_room(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = asked.session().ask(CURRENCY)
    newest: list[int] = []
    every_token = EvidenceRecorder.every_token

    def counted(self: EvidenceRecorder, **given: Any) -> None:
        newest.append(given["newest"])
        every_token(self, **given)

    monkeypatch.setattr(EvidenceRecorder, "every_token", counted)
    monkeypatch.setattr("kblam.models.lse.IN_BLOCKS_FROM", 1)
    for tokens in (100, 4):
        newest.clear()
        monkeypatch.setattr("kblam.models.lse.MOST_MAXIMA", asked.model.config.num_attention_heads * tokens)
        assert_alike([asked.session().ask(CURRENCY)], [expected])
        length = expected.num_tokens - 1
        assert newest == [min(tokens, length - at) for at in range(0, length, tokens)]


@torch.no_grad()
def let_prompts_count(asked: Asked) -> None:
    """Each token attends to other triples than the one before it."""
    torch.manual_seed(3)
    for head in asked.attachment.adapter.query_heads.values():
        head.weight.normal_(0, 1.5)


class Passes:
    """Counts the passes of a decoder, with the tokens of each."""

    def __init__(self, model: Any) -> None:
        self.lengths: list[int] = []
        self._hook = model.get_decoder().register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, decoder: Any, given: Any, options: dict[str, Any]) -> None:
        self.lengths.append(options["input_ids"].shape[1])

    def remove(self) -> None:
        self._hook.remove()


def told(answer: Answer) -> tuple[Any, ...]:
    """All of an answer but the masses of its evidence."""
    return (
        answer.text,
        answer.copied,
        answer.num_tokens,
        answer.known,
        answer.refused,
        answer.from_base,
        answer.is_cut,
        [item.triple for item in answer.evidence if item.mass > 1e-3],
    )


@pytest.mark.parametrize("unknown", ["refuse", "base"])
@pytest.mark.parametrize("limit", [120, 5])
def test_they_are_the_answers_of_generate(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, unknown: str, limit: int
) -> None:
    at_once, one_by_one = both_ways(asked.session(unknown=unknown), monkeypatch, max_new_tokens=limit)
    assert_alike(at_once, one_by_one)
    if limit == 120:
        assert at_once[0].text == EURO


@pytest.mark.parametrize("top_k", [1, 3, 5])
def test_the_best_few_triples_are_chosen_for_each_token(monkeypatch: pytest.MonkeyPatch, top_k: int) -> None:
    tokenizer, encoder = byte_bpe(), QuestionEncoder(EMBEDDING_DIM)
    model, attachment = attached(tokenizer, encoder, confidence=BY_MASS, top_k=top_k)
    with KnowledgeBase.from_triples(FACTS, encoder) as kb:
        asked = Asked(model, tokenizer, attachment, encoder, kb)
        let_prompts_count(asked)
        assert_alike(*both_ways(asked.session(), monkeypatch, max_new_tokens=120))


def test_a_model_that_keeps_no_cache_reads_all_again(asked: Asked) -> None:
    """In training with activation checkpointing transformers drops the cache it is given."""
    let_prompts_count(asked)
    cached = asked.session().ask_many(QUESTIONS, max_new_tokens=60)
    drop = asked.model.get_decoder().register_forward_pre_hook(
        lambda module, given, options: (given, options | {"past_key_values": None}), with_kwargs=True
    )
    assert_alike(asked.session().ask_many(QUESTIONS, max_new_tokens=60), cached)
    drop.remove()


def test_an_end_that_no_token_is_ends_nothing(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers takes -1 for "never"."""
    at_once, one_by_one = both_ways(asked.session(), monkeypatch, max_new_tokens=30, eos_token_id=-1)
    assert [told(one) for one in at_once] == [told(one) for one in one_by_one]
    assert {one.num_tokens for one in at_once} == {30}


def test_a_sentence_that_begins_as_the_refusal_does_goes_on_as_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, encoder = byte_bpe(), QuestionEncoder(EMBEDDING_DIM)
    answer = "I am sorry I cannot say more than that the {property} of {name} is {value}."
    model, attachment = attached(tokenizer, encoder, confidence=BY_MASS, answer=answer)
    with KnowledgeBase.from_triples(FACTS, encoder) as kb:
        session = Asked(model, tokenizer, attachment, encoder, kb).session()
        at_once, one_by_one = both_ways(session, monkeypatch, max_new_tokens=120)
    assert_alike(at_once, one_by_one)
    assert one_by_one[0].text == answer.format(property="currency", name="France", value="Euro")


def test_two_passes_are_enough(asked: Asked) -> None:
    """One reads the prompts, one the answers but for their last tokens; without evidence the second is not needed."""
    session = asked.session()
    session.ask(CURRENCY)
    passes = Passes(asked.model)
    answer = session.ask(CURRENCY, max_new_tokens=120)
    assert len(passes.lengths) == 2
    assert passes.lengths[1] == answer.num_tokens - 1
    assert session.ask(CURRENCY, max_new_tokens=120, top=0).text == EURO
    assert len(passes.lengths) == 3
    passes.remove()


@pytest.mark.parametrize(
    "options",
    [{"do_sample": True}, {"stop_strings": "zzz"}, {"max_time": 60.0}, {"cache_implementation": "static"}],
    ids=lambda options: next(iter(options)),
)
def test_other_options_are_left_to_generate(asked: Asked, options: dict[str, Any]) -> None:
    passes = Passes(asked.model)
    assert asked.session().ask(CURRENCY, max_new_tokens=120, **options).text == EURO
    assert len(passes.lengths) > 2
    passes.remove()


@pytest.mark.parametrize(
    "setting",
    [{"stop_strings": ["zzz"]}, {"max_time": 60.0}, {"watermarking_config": WatermarkingConfig(bias=0.5)}],
    ids=lambda setting: next(iter(setting)),
)
def test_what_the_model_s_own_settings_ask_for_is_left_to_generate(asked: Asked, setting: dict[str, Any]) -> None:
    asked.model.generation_config.update(**setting)
    passes = Passes(asked.model)
    assert asked.session().ask(CURRENCY, max_new_tokens=120).text == EURO
    assert len(passes.lengths) > 2
    passes.remove()


@pytest.mark.parametrize("first", [[], [1]], ids=["alone", "beside another"])
def test_an_end_token_of_the_caller_s_ends_it_early(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, first: list[int]
) -> None:
    tokens: list[int] = []
    streamer = Keep(tokens)
    asked.session().ask(CURRENCY, max_new_tokens=120, streamer=streamer)
    ends = [*first, tokens[-5]]
    tokens.clear()
    quick = asked.session().ask(CURRENCY, max_new_tokens=120, eos_token_id=ends, streamer=streamer)
    shown = list(tokens)
    monkeypatch.setattr(Generating, "is_plain", False)
    tokens.clear()
    slow = asked.session().ask(CURRENCY, max_new_tokens=120, eos_token_id=ends, streamer=streamer)
    assert told(quick) == told(slow)
    assert shown == tokens
    assert quick.num_tokens < 20


class Keep:
    """A streamer that keeps all it is given."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.ended = tokens, 0

    def put(self, ids: torch.Tensor) -> None:
        self.tokens.extend(ids.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("question", [CURRENCY, STONE])
@pytest.mark.parametrize("unknown", ["refuse", "base"])
def test_a_streamer_sees_what_generate_shows(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, question: str, unknown: str
) -> None:
    session, quick, slow = asked.session(unknown=unknown), Keep([]), Keep([])
    session.ask(question, max_new_tokens=60, streamer=quick)
    monkeypatch.setattr(Generating, "is_plain", False)
    session.ask(question, max_new_tokens=60, streamer=slow)
    assert (quick.tokens, quick.ended) == (slow.tokens, slow.ended)
    assert quick.ended == 1


def test_a_sentence_that_cannot_be_written_is_left_to_the_model(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of which the tokenizer makes a control token, whatever is done: `Wordings.of` says None then."""
    asked.kb.add(Triple("France", "currency", "<|end|>"))
    monkeypatch.setattr("kblam.generation.wording.Wordings.of", lambda self, text, prompt: None)
    passes = Passes(asked.model)
    answer = asked.session(unknown="base").ask(CURRENCY, max_new_tokens=7)
    passes.remove()
    assert len(passes.lengths) >= 7
    assert answer.copied == ()


def test_what_the_mass_decides_is_not_certain(asked: Asked) -> None:
    """Without a confidence the model's own word counts too, token by token."""
    passes = Passes(asked.model)
    adapter = asked.attachment.adapter
    adapter.config = adapter.config.__class__(**{**vars(adapter.config), "confidence": None})
    assert asked.session().ask(CURRENCY, max_new_tokens=120).text == EURO
    assert len(passes.lengths) > 2
    passes.remove()


def test_a_sampling_session_needs_no_second_reading(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(session_module, "write_at_once", lambda *given, **options: called.append(given))
    asked.session().ask(CURRENCY, max_new_tokens=60, do_sample=True)
    asked.session(unknown=None).ask(CURRENCY, max_new_tokens=60)
    asked.attachment.adapter.config = replace(asked.attachment.config, pointer=False)
    asked.session().ask(CURRENCY, max_new_tokens=5)
    assert not called


@pytest.mark.parametrize(("unknown", "is_certain"), [("refuse", True), (None, False)])
@torch.inference_mode()
def test_a_known_answer_is_certain_only_where_unknown_ones_are_decided_too(
    asked: Asked, unknown: Unknown | None, is_certain: bool
) -> None:
    """Else the model may still refuse."""
    row = encode_question(CURRENCY, asked.attachment, asked.tokenizer)
    ids, mask = left_padded([row], 0, asked.attachment.device)
    with asked.session(unknown=unknown).answering(CURRENCY) as pointer:
        asked.model.model(ids, attention_mask=mask)
        pointer.begin(ids, asked.model.config.vocab_size)
    assert pointer.decision(0).is_sure
    assert pointer.is_certain is is_certain
