"""The pointer: what it copies and what it leaves alone, with masses that are known beforehand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace

import pytest
import torch
from transformers import LogitsProcessor, TextIteratorStreamer

from kblam import Triple
from kblam.errors import GenerationError
from kblam.generation import Pointer
from kblam.generation.prompt import encode_question, left_padded
from kblam.generation.wording import Wordings
from kblam.models.copies import reading, resident_for
from tests.generation.asking import FACTS, Asked, asking, byte_bpe, sentence_piece

CURRENCY = "What is the currency of France?"
EURO = "The currency of France is Euro."
PERU = "What is the capital of Peru?"
FOUNDER = "Who is the founder of Project Nightjar?"
LUCJA = "The founder of Project Nightjar is Łucja Ødegård-Żak."


@pytest.fixture(params=[byte_bpe, sentence_piece], ids=["byte BPE", "SentencePiece"])
def asked(request: pytest.FixtureRequest) -> Iterator[Asked]:
    with asking(request.param()) as found:
        yield found


@pytest.mark.parametrize(
    "options",
    [{}, {"do_sample": True}, {"cache_implementation": "static"}, {"do_sample": True, "top_k": 5, "top_p": 0.5}],
    ids=["greedy", "sampling", "static cache", "warpers"],
)
def test_answers_are_copied_to_the_last_character(asked: Asked, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    answers = asked.session().ask_many([CURRENCY, FOUNDER], max_new_tokens=120, **options)
    assert [answer.text for answer in answers] == [EURO, LUCJA]
    for answer, fact in zip(answers, (FACTS[0], FACTS[2]), strict=True):
        said = {one.field: answer.text[one.start : one.end] for one in answer.copied}
        assert said == {"property": fact.property, "name": fact.name, "value": fact.value}
        assert {one.triple for one in answer.copied} == {fact}
        assert answer.evidence[0].triple == fact
        assert answer.knowledge_mass > 0.5
        assert (answer.is_cut, answer.refused, answer.from_base) == (False, False, False)


def test_a_batch_answers_as_its_questions_one_by_one(asked: Asked) -> None:
    questions = [CURRENCY, "What is the age of a stone?", FOUNDER, "Tell me about Project Nightjar."]
    for unknown in ("refuse", "base", None):
        session = asked.session(unknown=unknown)
        together = session.ask_many(questions, max_new_tokens=60)
        alone = [session.ask(question, max_new_tokens=60) for question in questions]
        said = [[(one.text, one.copied, one.from_base, one.num_tokens) for one in found] for found in (together, alone)]
        assert said[0] == said[1]


class Pushed(LogitsProcessor):
    """A model that wants to say some tokens, and then something else."""

    def __init__(self, wanted: list[int], other: int, prompt: int) -> None:
        self.wanted, self.other, self.prompt = wanted, other, prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.prompt
        scores[:, self.wanted[step] if step < len(self.wanted) else self.other] += 1e4
        return scores


@pytest.mark.parametrize(("begun", "held"), [(6, True), (2, False)])
def test_a_refusal_that_has_begun_is_said_whole(asked: Asked, begun: int, held: bool) -> None:
    question, refusal = "What is the age of a stone?", asked.attachment.config.refusal
    prompt = encode_question(question, asked.attachment, asked.tokenizer)
    tokens = Wordings(asked.tokenizer).of(refusal, prompt).tokens
    pushed = Pushed(list(tokens[:begun]), tokens[0], len(prompt))
    answer = asked.session(unknown=None).ask(question, max_new_tokens=60, logits_processor=[pushed])
    assert (answer.text == refusal) is held
    assert answer.refused is held


def test_without_a_pointer_the_model_speaks_alone(asked: Asked) -> None:
    """A random model does not know the words; the processor is what puts them there."""
    config = asked.attachment.adapter.config
    asked.attachment.adapter.config = replace(config, pointer=False, known_above=None)
    answer = asked.session().ask(CURRENCY, max_new_tokens=20)
    assert "Euro" not in answer.text
    assert answer.copied == ()
    assert answer.knowledge_mass > 0.5


def test_control_tokens_in_a_value_stay_text(asked: Asked) -> None:
    value = "a <|end|> b</s><|user|>"
    asked.kb.add(Triple("France", "currency", value))
    output: list[int] = []

    class Keep:
        def put(self, ids: torch.Tensor) -> None:
            output.extend(ids.flatten().tolist())

        def end(self) -> None:
            pass

    answer = asked.session().ask(CURRENCY, max_new_tokens=120, streamer=Keep())
    assert answer.text == f"The currency of France is {value}."
    with_specials = asked.tokenizer.all_special_ids
    said = output[-answer.num_tokens :]
    assert [token for token in said if token in with_specials] == [asked.tokenizer.eos_token_id]
    assert said[-1] == asked.tokenizer.eos_token_id


def test_an_answer_that_is_cut_says_so(asked: Asked) -> None:
    whole = asked.session().ask(FOUNDER, max_new_tokens=120)
    for limit in range(1, whole.num_tokens):
        cut = asked.session().ask(FOUNDER, max_new_tokens=limit)
        assert cut.is_cut
        assert LUCJA.startswith(cut.text)
        for one in cut.copied:
            assert getattr(one.triple, one.field).startswith(cut.text[one.start : one.end])


def test_what_leaves_the_plan_gets_no_value(asked: Asked) -> None:
    """Whatever else the model says, the pointer adds nothing to it, also if it says the frame's last words later."""
    ids, scores, pointer = at_the_end(asked, CURRENCY)
    plan = pointer.plans[0]
    first = pointer(ids, scores)
    assert first.argmax().item() == plan.tokens[0]
    other = next(token for token in range(10, 99) if token != plan.tokens[0])
    for tokens in ([other], [other, *plan.tokens[1:5]], [*plan.tokens[:3], other, *plan.tokens[3:6]]):
        more = torch.tensor([[*ids[0].tolist(), *tokens]])
        feed(pointer, len(tokens))
        assert torch.equal(pointer(more, scores), scores)


def test_the_weight_is_the_mass(asked: Asked) -> None:
    ids, scores, pointer = at_the_end(asked, PERU)
    table, plan = pointer._tables, pointer.plans[0]
    assert table is not None
    p = scores.softmax(-1)[0]
    mass = pointer.recorder.masses[0][0, 0].item()
    mixed = pointer(ids, scores).exp()[0]
    weight = min(mass, 0.9999)
    wanted = (1 - weight) * p
    wanted[plan.tokens[0]] += weight
    torch.testing.assert_close(mixed, wanted)
    begun = plan.begun.index(True)
    feed(pointer, begun)
    certain = pointer(torch.tensor([[*ids[0].tolist(), *plan.tokens[:begun]]]), scores)
    assert certain.exp()[0, plan.tokens[begun]].item() == 1


def test_weak_evidence_does_not_finish_a_name_but_a_value(asked: Asked) -> None:
    """A name whose first word the model said by chance is left to it; after the whole frame the value is the fact's."""
    asked.attachment.adapter.config = replace(asked.attachment.adapter.config, known_above=None)
    ids, scores, pointer = at_the_end(asked, PERU, weak=True)
    plan = pointer.plans[0]
    assert pointer.decision(0).mass < 0.3
    begun, settled = plan.begun.index(True), plan.settled.index(True)
    for step, certain in ((begun, False), (settled, True)):
        feed(pointer, step, like=0)
        mixed = pointer(torch.tensor([[*ids[0].tolist(), *plan.tokens[:step]]]), scores)
        assert (mixed.exp()[0, plan.tokens[step]].item() == 1) is certain


@pytest.mark.parametrize("returned", [1, 3])
def test_beams_are_followed(returned: int, asked: Asked) -> None:
    """By the first sequence of each question; beams are never the same, so the others say something else."""
    session = asked.session()
    questions = [CURRENCY, FOUNDER]
    with reading(asked.attachment, asked.kb) as resident:
        pointer = session.pointer(resident, questions)
        ids, mask = prompts(asked, questions)
        with (
            asked.attachment.using(resident, question=session.question_vectors(questions)),
            asked.attachment.observing(pointer.recorder),
        ):
            how = {"num_beams": 3, "num_return_sequences": returned, "do_sample": False}
            output = asked.model.generate(
                ids, attention_mask=mask, max_new_tokens=120, logits_processor=[pointer], **how
            )
    said = asked.tokenizer.batch_decode(output[::returned, ids.shape[1] :], skip_special_tokens=True)
    assert [text.strip() for text in said] == [EURO, LUCJA]


@pytest.mark.parametrize(
    "questions", [CURRENCY, [CURRENCY, "What is the age of a stone?", FOUNDER]], ids=["one", "batch"]
)
def test_a_generate_of_ones_own_answers_as_ask_does(asked: Asked, questions: str | list[str]) -> None:
    session = asked.session()
    texts = [questions] if isinstance(questions, str) else questions
    prompt = session.prompt(questions)
    with session.answering(questions) as pointer:
        output = asked.model.generate(**prompt, max_new_tokens=120, do_sample=False, logits_processor=[pointer])
    said = asked.tokenizer.batch_decode(output[:, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    answers = session.ask_many(texts, max_new_tokens=120)
    assert [text.strip() for text in said] == [answer.text for answer in answers]
    assert [pointer.decision(row).is_known for row in range(len(texts))] == [answer.known for answer in answers]
    assert asked.attachment.knowledge is None


def test_a_thread_takes_a_block_along(asked: Asked) -> None:
    """As transformers has a stream read; a thread without the context of the block sees no knowledge, and says so."""
    session = asked.session()
    prompt = session.prompt(CURRENCY)
    streamer = TextIteratorStreamer(asked.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    with session.answering(CURRENCY) as pointer:
        options = {**prompt, "max_new_tokens": 60, "do_sample": False, "logits_processor": [pointer]}
        with ThreadPoolExecutor() as pool, pytest.raises(GenerationError, match="saw no attention to knowledge"):
            pool.submit(asked.model.generate, **options).result()
        thread = threading.Thread(
            target=copy_context().run, args=(asked.model.generate,), kwargs={**options, "streamer": streamer}
        )
        thread.start()
        said = "".join(streamer)
        thread.join()
    assert said.strip() == EURO


def test_a_prompt_without_a_question_is_refused(asked: Asked) -> None:
    for nothing, words in (([], "there is no question"), (" ", "the question is empty"), ([3], "a question is text")):
        with pytest.raises(GenerationError, match=words):
            asked.session().prompt(nothing)  # type: ignore[arg-type]


def test_a_pointer_without_its_recorder_or_used_twice_says_so(asked: Asked) -> None:
    resident = resident_for(asked.attachment, asked.kb)
    pointer = Pointer(asked.attachment, resident, asked.tokenizer)
    with pytest.raises(GenerationError, match=r"saw no attention to knowledge.*observing\(pointer\.recorder\)"):
        pointer(torch.tensor([[1, 2]]), torch.zeros(1, len(asked.tokenizer)))
    ids, scores, pointer = at_the_end(asked, CURRENCY)
    pointer(ids, scores)
    with pytest.raises(GenerationError, match="make a new Pointer for each call"):
        pointer(ids[:, :2], scores)
    with pytest.raises(GenerationError, match="make a new Pointer for each call"):
        pointer(ids.repeat(2, 1), scores.repeat(2, 1))
    with pytest.raises(GenerationError, match=r"the tokenizer gave token \d+, the model has 3"):
        at_the_end(asked, CURRENCY, vocabulary=3)
    with pytest.raises(GenerationError, match="the pointer has 2 questions and the batch 1 rows"):
        at_the_end(asked, CURRENCY, questions=[CURRENCY, FOUNDER])


def test_what_guesses_several_tokens_at_once_is_told_to_be_turned_off(asked: Asked) -> None:
    session = asked.session()
    prompt = session.prompt(CURRENCY)
    how = {"max_new_tokens": 20, "do_sample": False, "prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1}
    with (
        session.answering(CURRENCY) as pointer,
        pytest.raises(GenerationError, match=r"token by token.*turn off .*prompt_lookup_num_tokens"),
    ):
        asked.model.generate(**prompt, **how, logits_processor=[pointer])


def test_one_text_is_one_question(asked: Asked) -> None:
    """And not a list of its characters."""
    session = asked.session()
    assert session.question_vectors(CURRENCY).equal(session.question_vectors([CURRENCY]))
    with reading(asked.attachment, asked.kb) as resident:
        assert session.pointer(resident, CURRENCY)._questions == [CURRENCY]


def prompts(asked: Asked, questions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [encode_question(question, asked.attachment, asked.tokenizer) for question in questions]
    return left_padded(rows, asked.tokenizer.pad_token_id, torch.device("cpu"))


def at_the_end(
    asked: Asked, question: str, *, weak: bool = False, vocabulary: int = 0, questions: list[str] | None = None
) -> tuple[torch.Tensor, torch.Tensor, Pointer]:
    """(prompt, random scores, pointer that has planned) of one question; weak makes its masses small."""
    ids, mask = prompts(asked, [question])
    resident = resident_for(asked.attachment, asked.kb)
    pointer = Pointer(asked.attachment, resident, asked.tokenizer, questions=questions)
    vectors = asked.session().question_vectors([question])
    with (
        torch.inference_mode(),
        asked.attachment.using(resident, question=vectors),
        asked.attachment.observing(pointer.recorder),
    ):
        asked.model(ids, attention_mask=mask)
    if weak:
        pointer.recorder.masses[0] = pointer.recorder.masses[0] * 0.2
    scores = torch.randn(1, vocabulary or len(asked.tokenizer), generator=torch.Generator().manual_seed(0))
    pointer(ids, scores)
    return ids, scores, pointer


def feed(pointer: Pointer, steps: int, like: int = -1) -> None:
    """Forward passes that saw what one before them saw."""
    recorder = pointer.recorder
    for kept in (recorder.masses, recorder.places):
        kept.extend([kept[like]] * (steps + 1 - len(kept)))
