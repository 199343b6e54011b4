"""A language model puts questions from templates into words of its own; what it changes too much stays as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kblam.data.asking.replies import CUT, Request, why_useless
from kblam.data.asking.sets import UNANSWERABLE, Asked
from kblam.data.at_once import answers
from kblam.data.endpoint import ChatClient, Endpoint, Reply, RequestFailedError, json_in
from kblam.data.journal import Journal
from kblam.errors import DataServerError
from kblam.knowledge.encoders import Progress
from kblam.knowledge.mention import says

TOGETHER = 10  # questions of one request
LONGEST = 400  # characters of a question
INSTRUCTIONS = """You put questions into other words, as different people would ask them, and reply with JSON alone.
Each question still asks for the same thing and nothing more. Names of things stay letter by letter. Never answer one.
Reply with one question for each number."""
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "questions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"number": {"type": "integer"}, "question": {"type": "string"}},
                "required": ["number", "question"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["questions"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Rephrased:
    """Questions in the order in which they were given.

    Args:
        questions: in a model's words, or as they were.
        kept: how many are as they were, since what the model wrote could not be used, or it wrote nothing.
        unanswered: how many of these were in requests that failed, were refused or cut, for each reason.
    """

    questions: list[Asked]
    kept: int
    unanswered: Counter[str] = field(default_factory=Counter)


def rephrased(
    questions: Sequence[Asked],
    endpoint: Endpoint,
    *,
    concurrency: int = 4,
    replies: Journal[str] | None = None,
    progress: Progress | None = None,
) -> Rephrased:
    """The same questions in a model's words.

    A question that no longer says a name, that says its own answer, or that is asked twice stays as it was.

    Args:
        questions: from templates.
        endpoint: the server and the model.
        concurrency: requests at a time.
        replies: what is in it is not asked again, and what can be used is added to it; None keeps nothing.
        progress: `progress(done, total)` in questions.

    Raises:
        DataError, DataServerError, EncoderError: as `ChatClient`; or no question at all could be used.
    """
    batches = [range(start, min(start + TOGETHER, len(questions))) for start in range(0, len(questions), TOGETHER)]
    requests = [Request(place, _messages(questions, batch), replies) for place, batch in enumerate(batches)]
    made, seen, done = list(questions), {one.question.casefold() for one in questions}, 0

    def ask(client: ChatClient, request: Request) -> Reply:
        return request.reply(client, temperature=1.0, schema=SCHEMA)

    changed: set[int] = set()
    unanswered: Counter[str] = Counter()
    with answers(requests, ask, endpoint, concurrency) as answered:
        for place, reply in answered:
            why = str(reply) if isinstance(reply, RequestFailedError) else why_useless(reply)
            text = "" if isinstance(reply, RequestFailedError) or why is not None else reply.text
            if why is not None:
                unanswered[why] += len(batches[place])
            texts = _numbered(text)
            for at in batches[place]:
                question = " ".join(texts.get(at, "").split())
                if question.casefold() not in seen and _can_be(question, questions[at]):
                    seen.add(question.casefold())
                    made[at] = replace(questions[at], question=question)
                    changed.add(at)
            if not changed.isdisjoint(batches[place]):
                requests[place].keep(endpoint.model, text)
            done += len(batches[place])
            if progress is not None:
                progress(done, len(questions))
    if questions and not changed:
        why = f" ({', '.join(unanswered)})" if unanswered else ""
        better = "a server with a higher limit" if set(unanswered) == {CUT} else "a larger model"
        raise DataServerError(
            f"{endpoint.model} at {endpoint.base_url} wrote no question that can be used for any of {len(questions):,}"
            f"{why}; use {better}, or the templates"
        )
    return Rephrased(made, len(questions) - len(changed), unanswered)


def _messages(questions: Sequence[Asked], batch: range) -> list[dict[str, str]]:
    listed = "\n".join(f"{at}. {questions[at].question}" for at in batch)
    return [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": listed}]


def _numbered(text: str) -> dict[int, str]:
    document = json_in(text)
    listed = document.get("questions") if isinstance(document, dict) else None
    found: dict[int, str] = {}
    for one in listed if isinstance(listed, list) else ():
        if isinstance(one, dict) and type(one.get("number")) is int and isinstance(one.get("question"), str):
            found[one["number"]] = one["question"]
    return found


def _can_be(text: str, asked: Asked) -> bool:
    if not 0 < len(text) <= LONGEST or not all(says(text, name) for name in asked.names):
        return False
    values = [value for context in asked.contexts if not says(asked.question, value := context.rpartition(" is ")[2])]
    return asked.kind == UNANSWERABLE or not any(says(text, value) for value in values)
