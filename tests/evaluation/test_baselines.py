"""The baselines: what stands in their prompts, and that sharing what prompts begin with changes no answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from kblam.adapter.sentences import Fact
from kblam.data.quiz import Quiz
from kblam.errors import GenerationError
from kblam.evaluation import baselines
from kblam.evaluation.baselines import NAMES, Reader, nearest, run_baseline
from kblam.evaluation.machine import PeakMemory, wait_for
from kblam.generation.rag import WITH_FACTS
from kblam.knowledge.triples import key_text
from tests.evaluation.subjects import ENCODER, REFUSAL, tiny_quiz, tiny_subject
from tests.fakes import HashingEncoder, clock

QUIZ = tiny_quiz()


class Recorded:
    """A tokenizer that notes what it was given."""

    chat_template = None

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> dict[str, list[int]]:
        self.texts.append(text)
        return {"input_ids": [1]}


def test_prompts_have_the_facts_and_the_refusal() -> None:
    tokenizer = Recorded()
    reader = Reader(type("Subject", (), {"model": None, "tokenizer": tokenizer})())
    reader.encode("What is it?", QUIZ.facts, REFUSAL)
    reader.encode("What is it?", (), REFUSAL)
    told, alone = tokenizer.texts
    for name, prop, value in QUIZ.facts:
        assert f"- {key_text(name, prop)}: {value}\n" in told + "\n"
    for text in (told, alone):
        assert REFUSAL in text
        assert text.endswith("Question: What is it?\nAnswer:")
    assert "Zirconia" not in alone


def test_a_prompt_in_a_chat_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers writes it, by a template that cannot run for ever."""
    subject = tiny_subject()
    subject.tokenizer.chat_template = "{% for m in messages %}{{ m.role }} : {{ m.content }} . {% endfor %}"
    told = WITH_FACTS.format(refusal=REFUSAL, facts="- the founder of A: B")
    messages = [{"role": "system", "content": told}, {"role": "user", "content": "What is it?"}]
    expected = subject.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert Reader(subject).encode("What is it?", [("A", "founder", "B")], REFUSAL) == expected
    subject.tokenizer.chat_template = "{% for i in range(99999) %}" * 4 + "{% endfor %}" * 4
    monkeypatch.setattr("kblam.models.rendering.SECONDS", 1)
    with pytest.raises(GenerationError, match="chat template cannot be used"):
        Reader(subject).encode("What is it?", (), REFUSAL)


@pytest.mark.parametrize("with_faiss", [True, False])
def test_the_nearest_facts_come_first(with_faiss: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if with_faiss:
        pytest.importorskip("faiss")
    else:
        monkeypatch.setitem(sys.modules, "faiss", None)
    choose = nearest(QUIZ, ENCODER, count=2)
    vectors = ENCODER.encode([key_text(name, prop) for name, prop, _ in QUIZ.facts])
    question = "what is the founder of quiet harbor ?"
    order = np.argsort(-(vectors @ ENCODER.encode([question])[0]))
    assert list(choose(question)) == [QUIZ.facts[place] for place in order[:2]]
    assert choose(key_text("Quiet Harbor", "founder"))[0] == QUIZ.facts[1]


class Bge(HashingEncoder):
    """By its name."""

    spec = "BAAI/bge-base-en-v1.5"


@pytest.mark.parametrize(
    ("instruction", "before"),
    [(None, "Represent this sentence for searching relevant passages: "), ("query: ", "query: "), ("", "")],
)
def test_rag_puts_an_encoder_s_instruction_before_questions_alone(instruction: str | None, before: str) -> None:
    encoder = Bge(16)
    row = run_baseline("rag", tiny_subject(), encoder, [QUIZ], refusal=REFUSAL, instruction=instruction)
    assert row.figures is not None
    keys = [key_text(name, prop) for name, prop, _ in QUIZ.facts]
    assert encoder.calls[: len(keys)] == keys
    assert set(encoder.calls[len(keys) :]) == {before + question.text for question in QUIZ.questions}


@torch.inference_mode()
def test_a_shared_beginning_changes_no_answer() -> None:
    subject = tiny_subject()
    long = [5 + place % 12 for place in range(90)]
    prompts = [[*long, 6], [*long, 7, 8, 9, 10], [*long, 8, 11]]
    alone = [Reader(subject).answer([prompt], 12)[0] for prompt in prompts]
    reader = Reader(subject)
    assert reader.share(prompts) is not None
    assert len(reader._shared) == 90
    assert reader.answer(prompts, 12) == alone
    assert reader.answer(prompts[:1], 12) == alone[:1], "what was shared is as it was"
    assert Reader(subject).answer(prompts, 12) == alone
    assert Reader(subject).share([[1, 2, 3], [1, 2, 4]]) is None


def test_reading_is_over_when_the_device_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU only takes orders while `model(...)` runs: its work of before is not counted, its own is."""
    now, waits = [0.0], iter((5.0, 3.0))

    def work(device: torch.device) -> None:
        now[0] += next(waits)

    monkeypatch.setattr(baselines, "wait_for", work, raising=False)
    monkeypatch.setattr(baselines, "time", clock(lambda: now[0]))
    long = [5 + place % 12 for place in range(90)]
    assert Reader(tiny_subject()).share([[*long, 6], [*long, 7]]) == 3


def test_a_gpu_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    wait_for(torch.device("cpu"))
    wait_for(torch.device("cuda", 1))
    assert waited == [torch.device("cuda", 1)]


@pytest.mark.parametrize("name", NAMES)
def test_each_baseline_answers_the_whole_quiz(name: str) -> None:
    row = run_baseline(name, tiny_subject(), ENCODER, [QUIZ], refusal=REFUSAL)
    assert row.figures is not None
    assert row.figures.questions == len(QUIZ.questions)
    assert row.times is not None
    record = row.to_dict()
    assert record["first_token_ms"] > 0
    assert record["ms_per_token"] > 0
    assert (record.get("peak_mib") is None) == (PeakMemory(torch.device("cpu")).mib() is None)
    assert ("top1" in record) == (name == "rag")


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_several_bases_is_asked_of_each_over_its_own_facts(name: str) -> None:
    other = tiny_quiz()
    other = Quiz([(name, prop, "Zirconia") for name, prop, _ in QUIZ.facts], other.questions[:2])
    prompts: list[str] = []
    subject = tiny_subject()
    encode = Reader.encode

    def noted(self: Reader, question: str, facts: Sequence[Fact], refusal: str) -> list[int]:
        prompts.append(" ".join(value for _, _, value in facts))
        return encode(self, question, facts, refusal)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "encode", noted)
        row = run_baseline(name, subject, ENCODER, [QUIZ, other], refusal=REFUSAL)
    assert row.figures is not None
    assert row.figures.questions == len(QUIZ.questions) + 2
    assert row.times is not None
    last = {"rag": "Zirconia Zirconia Zirconia", "in-context": "Zirconia Zirconia Zirconia", "zero-shot": ""}[name]
    assert prompts[-2:] == [last] * 2, "asked last, and not timed"
    assert all("Zirconia Zirconia" not in prompt for prompt in prompts[:-2])
    alone = run_baseline(name, subject, ENCODER, [QUIZ], refusal=REFUSAL)
    assert alone.prompt_tokens <= row.prompt_tokens


def test_a_row_of_which_one_base_does_not_fit_has_no_figures() -> None:
    many = Quiz([(f"Thing {n}", "capital", "Zirconia") for n in range(200)], QUIZ.questions)
    row = run_baseline("in-context", tiny_subject(), ENCODER, [QUIZ, many], refusal=REFUSAL)
    assert row.figures is None
    assert (row.reason or "").startswith("200 triples take")


def test_where_the_context_ends_is_said() -> None:
    many = Quiz([(f"Thing {n}", "capital", "Zirconia") for n in range(200)], QUIZ.questions)
    row = run_baseline("in-context", tiny_subject(), ENCODER, [many], refusal=REFUSAL)
    assert row.figures is None
    assert row.reason is not None
    assert "200 triples take" in row.reason
    assert "the model has room for 1,024" in row.reason
    fitting = int(row.reason.split("about ")[1].split()[0])
    assert 60 < fitting < 200


def test_where_the_memory_ends_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(baselines, "_answers", fails)
    row = run_baseline("in-context", tiny_subject(), ENCODER, [QUIZ], refusal=REFUSAL)
    assert row.to_dict()["reason"].endswith("do not fit into memory")

    def breaks(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(baselines, "_answers", breaks)
    with pytest.raises(RuntimeError, match="a bug"):
        run_baseline("in-context", tiny_subject(), ENCODER, [QUIZ], refusal=REFUSAL)
