"""A question with its answer in the forms that training and evaluation tools read, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kblam.data.quiz import Question
from kblam.errors import TripleFormatError
from kblam.knowledge.fields import check_storable
from kblam.knowledge.triples import Triple, key_text
from kblam.strict_json import loads, problem

_FACTS = "Facts:\n"
_NUMBERS = ("page", "offset")  # of a source


@dataclass(frozen=True)
class QuestionAnswer:
    """A question, its answer, and what the answer rests on.

    Args:
        question, answer: not empty.
        contexts: the facts, each a sentence; none where the base has no answer.
        kind: single, pair, open, ...
        group: questions of one group stay in one split; the name of the thing that is asked about.
        sources: where documents say it, as plain values.
        names: of all things that it is about, where they are known; a question about two keeps both in one split.
    """

    question: str
    answer: str
    contexts: tuple[str, ...] = ()
    kind: str = "single"
    group: str = ""
    sources: tuple[Mapping[str, Any], ...] = ()
    names: tuple[str, ...] = ()

    @property
    def things(self) -> tuple[str, ...]:
        """What must be in one split with it; itself where nothing says what it is about."""
        return tuple(dict.fromkeys(name for name in (self.group, *self.names) if name)) or (self.question,)


def of_question(question: Question, refusal: str) -> QuestionAnswer:
    """A question of a quiz; `refusal` answers what its base does not know."""
    facts = question.facts
    contexts = tuple(_sentence(*fact) for fact in facts)
    answer = question.answer if facts else refusal
    names = tuple(dict.fromkeys(name for name, _, _ in facts))
    return QuestionAnswer(question.text, answer, contexts, question.kind, facts[0][0] if facts else "", names=names)


def example_questions(triples: Iterable[Triple]) -> Iterator[QuestionAnswer]:
    """The example questions that triples bring along."""
    for triple in triples:
        if triple.question is not None and triple.answer is not None:
            context = _sentence(triple.name, triple.property, triple.value)
            sources = tuple(source.to_record() for source in triple.sources)
            name = triple.name
            yield QuestionAnswer(triple.question, triple.answer, (context,), group=name, sources=sources, names=(name,))


def _sentence(name: str, prop: str, value: str) -> str:
    return " ".join(f"{key_text(name, prop)} is {value}".split())  # facts stand a line each


# --- forms -----------------------------------------------------------------------------------------------


def _to_plain(one: QuestionAnswer, _: bool) -> dict[str, Any]:
    return {
        "question": one.question,
        "answer": one.answer,
        "contexts": list(one.contexts),
        "kind": one.kind,
        "group": one.group,
        "sources": [dict(source) for source in one.sources],
        "names": list(one.names),
    }


def _to_alpaca(one: QuestionAnswer, with_contexts: bool) -> dict[str, Any]:
    facts = "\n".join(one.contexts) if with_contexts else ""
    return {"instruction": one.question, "input": facts, "output": one.answer}


def _to_sharegpt(one: QuestionAnswer, with_contexts: bool) -> dict[str, Any]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = [{"from": names[role], "value": text} for role, text in _turns(one, with_contexts)]
    return {"conversations": turns}


def _to_messages(one: QuestionAnswer, with_contexts: bool) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in _turns(one, with_contexts)]}


def _to_ragas(one: QuestionAnswer, _: bool) -> dict[str, Any]:
    # The reference is the right answer; the response is what is judged, and here they are one until a model answers.
    return {
        "user_input": one.question,
        "response": one.answer,
        "retrieved_contexts": list(one.contexts),
        "reference": one.answer,
    }


def _turns(one: QuestionAnswer, with_contexts: bool) -> Iterator[tuple[str, str]]:
    if with_contexts and one.contexts:
        yield "system", _FACTS + "\n".join(one.contexts)
    yield "user", one.question
    yield "assistant", one.answer


FORMS: dict[str, Callable[[QuestionAnswer, bool], dict[str, Any]]] = {
    "plain": _to_plain,
    "alpaca": _to_alpaca,
    "sharegpt": _to_sharegpt,
    "messages": _to_messages,
    "ragas": _to_ragas,
}


def of_record(record: object) -> QuestionAnswer:
    """A question out of a record of any of the forms.

    Raises:
        TripleFormatError: it is none of them, or of a conversation with more than one question.
    """
    if not isinstance(record, Mapping):
        raise TripleFormatError("a question must be an object")
    if "user_input" in record:
        answer = record.get("reference") or record.get("response")
        # What Ragas itself makes of documents has the second alone.
        contexts = record.get("retrieved_contexts") or record.get("reference_contexts")
        return _made(record["user_input"], answer, contexts, fields=("user_input", "reference or response"))
    if "instruction" in record:
        fields = ("instruction", "output")
        return _made(record["instruction"], record.get("output"), _lines(record.get("input")), fields=fields)
    if "conversations" in record or "messages" in record:
        return _of_turns(record)
    if "question" in record or "Q" in record:
        # Ragas before 0.2 had the right answer in ground_truth, and in answer the one that is judged.
        question = record.get("question", record.get("Q"))
        answer = record.get("ground_truth") or record.get("answer", record.get("A"))
        kind, group = str(record.get("kind") or "single"), str(record.get("group") or "")
        return _made(question, answer, record.get("contexts"), kind, group, record.get("sources"), record.get("names"))
    known = "question and answer; instruction and output; conversations; messages; user_input and reference"
    raise TripleFormatError(f"no question in it; a record has {known}")


def _of_turns(record: Mapping[str, Any]) -> QuestionAnswer:
    said: dict[str, list[str]] = {}
    for turn in record.get("conversations") or record.get("messages") or ():
        if not isinstance(turn, Mapping):
            raise TripleFormatError("a turn of a conversation must be an object")
        role = str(turn.get("from") or turn.get("role"))
        said.setdefault({"human": "user", "gpt": "assistant"}.get(role, role), []).append(
            _text_of(turn.get("value") or turn.get("content") or "")
        )
    if len(said.get("user", ())) != 1 or len(said.get("assistant", ())) != 1:
        raise TripleFormatError("a conversation of one question and one answer is needed")
    facts = said.get("system", [""])[0]
    contexts = _lines(facts.removeprefix(_FACTS)) if facts.startswith(_FACTS) else []
    return _made(said["user"][0], said["assistant"][0], contexts)


def _text_of(content: object) -> str:
    """What a turn says: a text, or OpenAI's list of parts of which each is one."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise TripleFormatError("a turn of a conversation must be text")
    return "\n".join(map(str, texts))


def _lines(text: object) -> list[str]:
    return text.split("\n") if isinstance(text, str) and text else []


def _made(
    question: object,
    answer: object,
    contexts: object,
    kind: str = "single",
    group: str = "",
    sources: object = None,
    names: object = None,
    fields: tuple[str, str] = ("question", "answer"),
) -> QuestionAnswer:
    for part, field, text in zip(("question", "answer"), fields, (question, answer), strict=True):
        said = f"the {part}" if part == field else f"the {part} ({field})"
        if not text or (isinstance(text, str) and not text.strip()):
            raise TripleFormatError(f"{said} is missing or empty")
        if not isinstance(text, str):
            raise TripleFormatError(f"{said} must be one text, got {str(text)[:40]}")
    facts = tuple(map(str, _listed("contexts", contexts)))
    is_one = isinstance(names, str) and names and not names.startswith("[")  # of a set that others made
    about = tuple(map(str, [names] if is_one else _listed("names", names)))
    where = _listed("sources", sources)
    if not all(isinstance(one, Mapping) for one in where):
        raise TripleFormatError("sources must be a list of objects")
    check_storable("the question", str(question))
    check_storable("the answer", str(answer))
    for text in (kind, group, *facts, *about, *(str(value) for one in where for value in one.values())):
        check_storable("a field of the question", text)
    return QuestionAnswer(str(question), str(answer), facts, kind, group, tuple(map(_source, where)), about)


def _source(record: Mapping[str, Any]) -> dict[str, Any]:
    """Its numbers as such: files are read with the digits that they have."""
    return {
        key: int(value) if key in _NUMBERS and isinstance(value, str) and value.isdecimal() else value
        for key, value in record.items()
    }


def _listed(part: str, given: object) -> list[Any]:
    """A list, which CSV and Parquet may have as the text of one."""
    if isinstance(given, str):
        try:
            given = loads(given) if given else []
        except (ValueError, RecursionError) as error:
            raise TripleFormatError(f"{part} must be a list: {problem(error)}") from None
    if given is not None and not isinstance(given, list | tuple):
        raise TripleFormatError(f"{part} must be a list, got {str(given)[:40]}")
    return [one for one in given or () if one is not None]
