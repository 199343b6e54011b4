"""Sets of questions in the forms of other tools: written, read back, divided into splits."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from kblam.data.exporting import (
    FORMS,
    QuestionAnswer,
    example_questions,
    export_questions,
    export_splits,
    of_question,
    read_questions,
)
from kblam.data.exporting.dividing import divided
from kblam.data.quiz import NO_ENTITY, Question
from kblam.errors import DataError, TripleFormatError
from kblam.knowledge import Source, Triple

ONE = QuestionAnswer(
    "What is the use of Oak?",
    'The use of Oak is "ships".',
    ("the use of Oak is ships",),
    "single",
    "Oak",
    ({"document": "trees.md", "page": 3},),
    ("Oak",),
)
TWO = QuestionAnswer("Who?\nAnd 誰?", "I do not know.", (), "no entity", "")
SET = [ONE, TWO]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("form", FORMS)
def test_a_set_comes_back_as_it_was(tmp_path: Path, form: str, suffix: str) -> None:
    path = tmp_path / f"set.{suffix}"
    if suffix == "csv" and form in ("sharegpt", "messages"):
        with pytest.raises(DataError, match="CSV cannot hold"):
            export_questions(path, SET, form=form)
        return
    assert export_questions(path, SET, form=form, with_contexts=True) == 2
    found = list(read_questions(path))
    assert [(one.question, one.answer, one.contexts) for one in found] == [
        (one.question, one.answer, one.contexts) for one in SET
    ]
    if form == "plain":
        assert found == SET


def test_forms_are_those_of_the_tools(tmp_path: Path) -> None:
    def record(form: str, **options: bool) -> object:
        export_questions(tmp_path / "a.json", [ONE], form=form, **options)
        return json.loads((tmp_path / "a.json").read_text())[0]

    question, answer, facts = ONE.question, ONE.answer, list(ONE.contexts)
    assert record("alpaca") == {"instruction": question, "input": "", "output": answer}
    assert record("alpaca", with_contexts=True) == {"instruction": question, "input": facts[0], "output": answer}
    assert record("sharegpt") == {
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    }
    assert record("messages", with_contexts=True) == {
        "messages": [
            {"role": "system", "content": f"Facts:\n{facts[0]}"},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }
    assert record("ragas") == {
        "user_input": question,
        "response": answer,
        "retrieved_contexts": facts,
        "reference": answer,
    }


def test_questions_about_one_thing_stay_in_one_split(tmp_path: Path) -> None:
    questions = [QuestionAnswer(f"q{n}", "a", group=f"thing {n % 50}") for n in range(500)]
    counts = export_splits(tmp_path / "s.jsonl", questions, {"train": 0.8, "test": 0.2})
    assert sum(counts.values()) == 500
    assert 300 < counts["train"] < 480
    held = {name: {one.group for one in read_questions(tmp_path / f"s-{name}.jsonl")} for name in counts}
    assert held["train"].isdisjoint(held["test"])
    again = export_splits(tmp_path / "t.jsonl", [*questions, QuestionAnswer("new", "a")], {"train": 0.8, "test": 0.2})
    assert {one.group for one in read_questions(tmp_path / "t-test.jsonl")} - {""} == held["test"]
    assert sum(again.values()) == 501


def test_a_question_about_two_things_keeps_both_in_one_split(tmp_path: Path) -> None:
    draw, things = random.Random(0), [f"thing {n}" for n in range(200)]
    single = [QuestionAnswer(f"of {thing} {n}", "a", group=thing, names=(thing,)) for thing in things for n in range(3)]
    pairs = [draw.sample(things[:120], 2) for _ in range(45)]
    double = [QuestionAnswer(" and ".join(pair), "a", group=pair[0], names=tuple(pair)) for pair in pairs]
    shares = {"train": 0.7, "dev": 0.1, "test": 0.2}

    def held(file: str, given: list[QuestionAnswer]) -> dict[str, list[QuestionAnswer]]:
        export_splits(tmp_path / f"{file}.csv", given, shares)
        return {name: list(read_questions(tmp_path / f"{file}-{name}.csv")) for name in shares}

    found = held("s", [*single, *double])
    about = [{name for one in of_split for name in one.names} for of_split in found.values()]
    assert not about[0] & about[1] | about[1] & about[2] | about[0] & about[2]
    for name, share in shares.items():
        assert len(found[name]) / 645 == pytest.approx(share, abs=0.07)
    again = held("t", [*reversed(double), *reversed(single)])
    assert {name: set(map(str, of_split)) for name, of_split in again.items()} == {
        name: set(map(str, of_split)) for name, of_split in found.items()
    }


def test_all_that_hangs_together_goes_where_most_belongs() -> None:
    chain = [QuestionAnswer("q", "a", names=(f"thing {n}", f"thing {n + 1}")) for n in range(90)]
    rest = [QuestionAnswer("q", "a", names=(f"other {n}",)) for n in range(10)]
    for splits in ({"test": 0.1, "train": 0.9}, {"none": 0.0, "test": 0.1, "train": 0.9}):
        of = [name for name, _ in divided([*chain, *rest], splits, 0)]
        assert set(of[:90]) == {"train"}
        assert set(of[90:]) == {"test"}


def test_questions_come_from_quizzes_and_from_triples() -> None:
    told = {"document": "trees.md", "page": 3, "quote": "ships of oak"}
    fact = Triple("Oak", "use", "ships", question="What is Oak for?", answer="Ships.", sources=(Source(**told),))
    assert list(example_questions([fact, Triple("Elm", "use", "carts")])) == [
        QuestionAnswer("What is Oak for?", "Ships.", ("the use of Oak is ships",), "single", "Oak", (told,), ("Oak",))
    ]
    known = of_question(Question("Oak?", (("Oak", "use", "ships"),), "The {property} of {name} is {value}."), "no")
    fact = ("the use of Oak is ships",)
    assert known == QuestionAnswer("Oak?", "The use of Oak is ships.", fact, "single", "Oak", names=("Oak",))
    unknown = of_question(Question("Who is X?", (), kind=NO_ENTITY), "I do not know.")
    assert unknown == QuestionAnswer("Who is X?", "I do not know.", (), NO_ENTITY, "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"question": "a", "answer": ""}', "s.jsonl:1: the answer is missing or empty"),
        ('{"user_input": "a"}', r"s.jsonl:1: the answer \(reference or response\) is missing or empty"),
        (
            '{"user_input": [{"content": "a"}], "reference": "b"}',
            r"the question \(user_input\) must be one text, got \[",
        ),
        ('{"instruction": "a"}', r"the answer \(output\) is missing or empty"),
        ('{"q": 1}', "no question in it"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "one question and one answer"),
        ('{"messages": ["a"]}', "must be an object"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "must be text"),
        ('{"question": "a", "answer": "b", "contexts": 3}', "contexts must be a list"),
        ('{"question": "a", "answer": "b", "sources": ["c"]}', "sources must be a list of objects"),
        ('{"question": "a\\ud800", "answer": "b"}', "s.jsonl:1: the question holds a NUL or half of a surrogate pair"),
        ('{"question": "a", "answer": "b", "contexts": ["\\u0000"]}', "a field of the question holds a NUL"),
        ("[1]", "must be an object"),
        ("{", "not JSON"),
    ],
)
def test_records_that_are_no_questions(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(TripleFormatError, match=told):
        list(read_questions(path))


def test_the_contexts_of_a_set_that_ragas_made_are_read(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"user_input": "a", "reference": "b", "reference_contexts": ["c"]}\n')
    assert [one.contexts for one in read_questions(tmp_path / "s.jsonl")] == [("c",)]


@pytest.mark.parametrize("judged", ["", '"answer": "wrong", '], ids=["testset", "judged"])
def test_the_right_answer_of_an_older_ragas_is_its_ground_truth(tmp_path: Path, judged: str) -> None:
    (tmp_path / "s.jsonl").write_text(f'{{"question": "a", {judged}"ground_truth": "b", "contexts": ["c"]}}\n')
    assert [(one.answer, one.contexts) for one in read_questions(tmp_path / "s.jsonl")] == [("b", ("c",))]


def test_a_turn_may_come_in_parts(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Who is Ada?"}, {"type": "text", "text": "In short."}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A counter."}]
    (tmp_path / "s.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    (found,) = read_questions(tmp_path / "s.jsonl")
    assert (found.question, found.answer) == ("Who is Ada?\nIn short.", "A counter.")


def test_what_does_not_go_together_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    for options, told in (
        ({"form": "x"}, "there is no form"),
        ({"splits": {"a": 0.5, "b": 0.4}}, "add up to 1; got a=0.5, b=0.4"),
    ):
        with pytest.raises(DataError, match=told):
            export_splits(tmp_path / "s.json", SET, **{"splits": {"": 1.0}, **options})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="cannot tell the format"):
        export_questions(tmp_path / "s.txt", SET)
    with pytest.raises(DataError, match="no question to write"):
        export_questions(tmp_path / "s.jsonl", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_texts_come_back_to_the_letter(tmp_path: Path, suffix: str) -> None:
    one = QuestionAnswer("\ufeffWhat is it?", "  four\n", (" a fact ", "  "), group=" it", names=("it ",))
    export_questions(tmp_path / f"a{suffix}", [one, one])
    assert list(read_questions(tmp_path / f"a{suffix}")) == [one, one]


def test_nothing_in_a_list_is_no_fact(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "What?", "answer": "That.", "contexts": ["a fact", null]}\n')
    assert [one.contexts for one in read_questions(tmp_path / "a.jsonl")] == [("a fact",)]
