"""What `generate` will do decides, not what was passed: the model's own generation config counts too."""

from __future__ import annotations

import functools
from typing import Any, Literal

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria, StoppingCriteriaList

from kblam import Answer, Session, ask, ask_many
from kblam.errors import GenerationError
from kblam.generation.evidence import EvidenceRecorder
from tests.generation.asking import asking, byte_bpe
from tests.generation.conftest import World
from tests.generation.test_at_once import BY_MASS
from tests.generation.test_pointer import CURRENCY, EURO

QUESTION = "What is the capital of Amber Falcon?"
QUESTIONS = [QUESTION, "founder of Quiet Harbor?", "What is the motto of Silver Meadow?"]


def asked(world: World, **options: Any) -> Answer:
    options = {"max_new_tokens": 4, "tokenizer": world.tokenizer, **options}
    return ask(world.model, world.kb, QUESTION, **options)


def shares(answer: Answer) -> list[tuple[str, float]]:
    return [(one.triple.name, pytest.approx(one.mass, abs=1e-5)) for one in answer.evidence]


NEUTRAL: list[dict[str, Any]] = [
    {"return_dict_in_generate": True, "output_scores": True},
    {"num_beams": 3},
    {"num_return_sequences": 2, "num_beams": 2},
    {"prompt_lookup_num_tokens": 3},
    {"do_sample": True, "temperature": 9.0},
    {"prefill_chunk_size": 3},
    {"use_cache": False},
    {"guidance_scale": 1.000001},
    {"guidance_scale": 1.000001, "use_cache": False},
    {"stop_strings": ["no such words"]},
    {"stop_strings": []},
    {"output_hidden_states": True},
]


@pytest.mark.parametrize("config", NEUTRAL, ids=str)
def test_the_models_own_config_changes_neither_answer_nor_evidence(config: dict[str, Any], world: World) -> None:
    plain = asked(world)
    for name, value in config.items():
        setattr(world.model.generation_config, name, value)
    found = asked(world)
    assert (found.text, found.num_tokens) == (plain.text, plain.num_tokens)
    assert [(one.triple.name, one.mass) for one in found.evidence] == shares(plain)
    assert found.knowledge_mass == pytest.approx(plain.knowledge_mass, abs=1e-5)


REFUSED: list[Any] = [
    ({"num_beams": 2}, "one sequence per question"),
    ({"generation_config": GenerationConfig(num_beams=2)}, "one sequence per question"),
    ({"generation_config": GenerationConfig(num_return_sequences=2, do_sample=True)}, "one sequence per question"),
    ({"prompt_lookup_num_tokens": 2}, "ask for assisted_generation"),
    ({"generation_config": GenerationConfig(prompt_lookup_num_tokens=2)}, "ask for assisted_generation"),
    ({"penalty_alpha": 0.6, "top_k": 4}, "ask for contrastive_search"),
    ({"token_healing": True}, "token_healing changes the question"),
    ({"custom_generate": "somebody/something"}, "leave custom_generate out"),
    ({"max_length": 40}, "max_length itself"),
    ({"attention_mask": torch.ones(1, 3)}, "attention_mask itself"),
    ({"generation_config": GenerationConfig(max_new_tokens=3)}, "pass max_new_tokens= to ask"),
    ({"generation_config": {"num_beams": 2}}, "generation_config must be a GenerationConfig; got {"),
    ({"stop_strings": [""]}, "must be texts that are not empty"),
    ({"stop_strings": [3]}, "must be texts that are not empty"),
    ({"stop_strings": 0}, "must be texts that are not empty"),
    ({"temprature": 0.5}, "does not take these options: .*temprature"),
    ({"cache_implementation": "paged"}, "cache_implementation must be a cache that works here"),
    ({"repetition_penalty": 0.0}, "repetition_penalty must be a float above 0, such as 1.2; got 0.0"),
    ({"generation_config": GenerationConfig(repetition_penalty=0.0)}, "repetition_penalty must be"),
    ({"prefill_chunk_size": 0}, "prefill_chunk_size must be a whole number of at least 1; got 0"),
    ({"eos_token_id": "</s>"}, "eos_token_id must be a token id, or a list of them; got '</s>'"),
    ({"do_sample": True, "top_k": "5"}, "top_k must be a whole number; got '5'"),
    ({"logits_processor": [3]}, r"logits_processor must be a list of logits processors; got \[3\]"),
    ({"streamer": "x"}, "streamer must be a streamer with the methods put and end; got 'x'"),
    ({"tokenizer": "x"}, "tokenizer must be the model's, as AutoTokenizer.from_pretrained loads it; got 'x'"),
    ({"max_new_tokens": "5"}, "max_new_tokens must be a whole number of at least 1; got '5'"),
    ({"max_new_tokens": None}, "max_new_tokens must be a whole number of at least 1; got None"),
    ({"top": -1}, "top must be a whole number of at least 0; got -1"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_cannot_be_followed_is_refused_by_name(options: dict[str, Any], message: str, world: World) -> None:
    with pytest.raises(GenerationError, match=message):
        asked(world, **options)


def test_an_option_of_the_wrong_kind_in_the_models_own_config_is_refused_too(world: World) -> None:
    world.model.generation_config.no_repeat_ngram_size = "3"
    with pytest.raises(GenerationError, match=r"no_repeat_ngram_size must be a whole number; .* got '3'"):
        asked(world)
    world.model.generation_config.no_repeat_ngram_size = None
    world.model.generation_config.top_p = "0.9"  # which greedy decoding does not read
    assert asked(world).text


def test_a_model_that_guesses_is_refused(world: World) -> None:
    with pytest.raises(GenerationError, match="ask for assisted_generation"):
        asked(world, assistant_model=world.model)


def test_a_streamer_shows_one_answer(world: World) -> None:
    with pytest.raises(GenerationError, match="ask the 3 questions one by one"):
        ask_many(world.model, world.kb, QUESTIONS, tokenizer=world.tokenizer, streamer=object())


def test_a_callers_config_is_followed(world: World) -> None:
    plain = asked(world)
    last = plain.text.split()[-1]
    end = world.tokenizer(last, add_special_tokens=False)["input_ids"][0]
    for options in ({"eos_token_id": end}, {"generation_config": GenerationConfig(eos_token_id=[end])}):
        cut = asked(world, **options, max_new_tokens=9)
        assert (cut.num_tokens, cut.is_cut) == (plain.text.split().index(last) + 1, False)


@pytest.mark.parametrize("unknown", [None, "base"])
def test_an_answer_that_ran_out_of_time_is_cut(unknown: Literal["base"] | None, world: World) -> None:
    """The base model's too; not one that ended in time, or where the caller wanted it."""
    options: dict[str, Any] = {"unknown": unknown, "known_above": 1.0}
    last = asked(world, **options).text.split()[-1]
    options |= {"max_new_tokens": 9, "eos_token_id": world.tokenizer(last, add_special_tokens=False)["input_ids"]}
    whole, late = asked(world, **options), asked(world, max_time=1e-9, **options)
    assert (late.is_cut, late.num_tokens) == (True, 1)
    assert not whole.is_cut
    assert 1 < whole.num_tokens < 9
    assert not asked(world, max_time=600.0, **options).is_cut
    assert not asked(world, stop_strings=[late.text], max_time=600.0, **options).is_cut
    own = StoppingCriteriaList([lambda input_ids, scores: torch.ones(len(input_ids), dtype=torch.bool)])
    assert not asked(world, stopping_criteria=own, max_time=600.0, **options).is_cut


def test_a_stop_string_ends_its_row_alone(world: World) -> None:
    options = {"tokenizer": world.tokenizer, "max_new_tokens": 6}
    plain = ask_many(world.model, world.kb, QUESTIONS, **options)
    stop = plain[0].text.split()[1]
    for with_ends in (True, False):
        if not with_ends:  # then transformers goes on with rows that have stopped
            world.model.generation_config.eos_token_id = None
            world.tokenizer.eos_token = None
        found = ask_many(world.model, world.kb, QUESTIONS, stop_strings=[stop], **options)
        for before, after in zip(plain, found, strict=True):
            words = before.text.split()
            count = words.index(stop) + 1 if stop in words else len(words)
            assert after.text.split() == words[:count]
            assert after.is_cut is (stop not in words)


def guided(world: World, ids: torch.Tensor, away: torch.Tensor, scale: float, count: int) -> torch.Tensor:
    """Classifier-free guidance without a cache: scale * (asked - away) + away, of log-probabilities."""
    with torch.no_grad(), world.attachment.using(world.kb):
        for _ in range(count):
            asked, other = (world.model(rows).logits[:, -1].log_softmax(-1) for rows in (ids, away))
            token = (scale * (asked - other) + other).argmax(-1, keepdim=True)
            ids, away = torch.cat([ids, token], 1), torch.cat([away, token], 1)
    return ids


@pytest.mark.parametrize("given", [{}, {"use_cache": False}, {"cache_implementation": "static"}], ids=str)
@pytest.mark.parametrize("away", [None, torch.tensor([[5, 6, 7]])], ids=["last token", "a prompt"])
def test_guidance_says_what_both_passes_with_knowledge_come_to(
    away: torch.Tensor | None, given: dict[str, Any], world: World
) -> None:
    """And the evidence is of the pass that reads the question, whatever the scale."""
    ids = Session(world.model, world.kb, tokenizer=world.tokenizer).prompt(QUESTION)["input_ids"]
    right = guided(world, ids, ids[:, -1:] if away is None else away, 1.7, 6)
    options: dict[str, Any] = {"guidance_scale": 1.7, "max_new_tokens": 6, "eos_token_id": None, **given}
    if away is not None:
        options["negative_prompt_ids"] = away
    with world.attachment.using(world.kb):
        said = world.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **options)
    assert torch.equal(said, right)
    found = asked(world, **options)
    assert found.text == world.tokenizer.decode(right[0, ids.shape[1] :], skip_special_tokens=True)
    recorder = EvidenceRecorder()
    every_token = functools.partial(recorder.every_token, newest=6)
    with torch.no_grad(), world.attachment.using(world.kb), world.attachment.observing(every_token):
        world.model(right[:, :-1])
    masses = dict(recorder.best(0, 6, 3))
    by_name = {triple.name: masses[place] for place, triple in enumerate(world.kb.triples())}
    assert {one.triple.name: one.mass for one in found.evidence} == pytest.approx(by_name, abs=1e-5)


def test_a_prompt_to_lead_away_from_belongs_to_its_question(world: World) -> None:
    away = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])
    options: dict[str, Any] = {"guidance_scale": 2.5, "tokenizer": world.tokenizer, "max_new_tokens": 4}
    alone = [
        ask(world.model, world.kb, question, negative_prompt_ids=row[None], **options).text
        for question, row in zip(QUESTIONS, away, strict=True)
    ]
    together = ask_many(world.model, world.kb, QUESTIONS, negative_prompt_ids=away, batch_size=2, **options)
    assert [answer.text for answer in together] == alone
    for wrong in (away[:1], away[0], away.tolist()):
        with pytest.raises(GenerationError, match=r"negative_prompt_ids must be a tensor \(3, N\)"):
            ask_many(world.model, world.kb, QUESTIONS, negative_prompt_ids=wrong, **options)


class Ends(StoppingCriteria):
    """Ends the first row after two tokens."""

    tokens = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.tokens += 1
        ended = torch.zeros(len(input_ids), dtype=torch.bool)
        ended[0] = self.tokens >= 2
        return ended


def test_padding_of_a_row_that_has_stopped_is_no_part_of_its_answer(world: World) -> None:
    options = {"tokenizer": world.tokenizer, "max_new_tokens": 6}
    found = ask_many(world.model, world.kb, QUESTIONS, stopping_criteria=[Ends()], **options)
    plain = ask_many(world.model, world.kb, QUESTIONS, **options)
    assert found[0].num_tokens == 2
    assert found[0].text
    assert plain[0].text.startswith(found[0].text)
    assert plain[0].num_tokens == 6
    assert [one.text for one in found[1:]] == [one.text for one in plain[1:]]


class SaysPadding(LogitsProcessor):
    """A model that says the padding token."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -torch.inf).index_fill_(1, torch.tensor([self.pad]), 0.0)


def test_an_answer_of_padding_alone_is_one_token(world: World) -> None:
    said = SaysPadding(world.tokenizer.pad_token_id)
    answer = asked(world, logits_processor=[said], stopping_criteria=[Ends()], max_new_tokens=4)
    assert (answer.text, answer.num_tokens, answer.is_cut) == ("", 1, False)


class AsksAgain(LogitsProcessor):
    """A processor that runs the model itself, as contrastive decoding does."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.model(input_ids[:, -1:])
        return scores


def test_passes_of_a_callers_processor_are_no_evidence(world: World) -> None:
    plain = asked(world)
    found = asked(world, logits_processor=[AsksAgain(world.model)])
    assert found.text == plain.text
    assert [(one.triple.name, one.mass) for one in found.evidence] == shares(plain)


@pytest.mark.parametrize(
    "options",
    [
        {"min_new_tokens": 60},
        {"bad_words_ids": [[5]]},
        {"suppress_tokens": [5]},
        {"no_repeat_ngram_size": 1},
        {"repetition_penalty": 1.3},
        {"forced_eos_token_id": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_would_change_the_words_of_a_decided_answer_is_refused(options: dict[str, Any]) -> None:
    with asking(byte_bpe(), confidence=BY_MASS) as decided:
        (name,) = options
        with pytest.raises(GenerationError, match=f"{name}=.* would change the words of an answer"):
            decided.session(unknown="refuse").ask(CURRENCY, **options)
        assert decided.session(unknown="base").ask(CURRENCY, **options).text, "the base model's answers follow it"
        neutral = {"min_new_tokens": 0, "repetition_penalty": 1.0, "bad_words_ids": None, "sequence_bias": None}
        assert decided.session(unknown="refuse").ask(CURRENCY, **neutral).text == EURO
