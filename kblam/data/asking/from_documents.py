"""Questions about documents, written by a language model; an answer rests on words that stand in the document."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kblam.adapter.config import REFUSAL
from kblam.data.asking.replies import CUT, Request, why_useless
from kblam.data.asking.sets import DEFAULT_SHARES, KINDS, UNANSWERABLE, Asked
from kblam.data.at_once import answers
from kblam.data.documents import Piece
from kblam.data.endpoint import ChatClient, Endpoint, Reply, RequestFailedError, json_in
from kblam.data.extracting.quotes import find_quote
from kblam.data.journal import Journal
from kblam.data.quiz import counts
from kblam.errors import DataError, DataServerError, argument
from kblam.knowledge import Source
from kblam.knowledge.encoders import Progress

MOST_OF_PIECE = 20
LONGEST_QUESTION, LONGEST_ANSWER = 400, 1000  # characters
_FIELDS = ("kind", "question", "answer", "quote")
_MEANING = {
    "single": "asks for one fact of the passage",
    "pair": "asks for two facts of the passage in one sentence",
    "open": "asks for all that the passage says of one thing",
    UNANSWERABLE: "asks for something that one would expect in the document and that the passage does not say",
}
INSTRUCTIONS = """You write questions that people ask about a document, and reply with JSON alone.
Each has
- "kind": {kinds};
- "question": that can be understood without the passage; it says the names of the things it is about;
- "answer": one sentence in the words of the passage; "" where the kind is "unanswerable";
- "quote": the words of the passage that say the answer, copied letter by letter; "" where there is none."""


@dataclass
class Written:
    """What came of documents.

    Args:
        questions: each with the words that answer it.
        refused: why questions were left out, and how many for each reason.
    """

    questions: list[Asked] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


def about_documents(
    pieces: Sequence[Piece],
    count: int,
    endpoint: Endpoint,
    *,
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
    refusal: str = REFUSAL,
    concurrency: int = 4,
    replies: Journal[str] | None = None,
    progress: Progress | None = None,
) -> Written:
    """Questions that differ, spread over the documents; fewer where a model writes no more.

    Args:
        pieces: of all documents.
        count: of questions.
        endpoint: the server and the model.
        shares: of the kinds, together 1.
        seed: which pieces are asked about, where there are more than questions.
        refusal: the answer to what no document says.
        concurrency: requests at a time.
        replies: what is in it is not asked again, and what can be used is added to it; None keeps nothing.
        progress: `progress(done, total)` in requests.

    Raises:
        DataError, DataServerError, EncoderError: as `ChatClient`; or there is no text, or nothing could be used.
    """
    if not pieces:
        raise DataError("there is nothing to ask about: the documents have no text but headings")
    wanted = counts(count, shares or DEFAULT_SHARES)
    kinds = [kind for kind, number in wanted.items() for _ in range(number)]
    rng = random.Random(f"kblam documents {seed}")
    rng.shuffle(kinds)
    order = rng.sample(range(len(pieces)), min(len(pieces), len(kinds)))
    of_piece = [kinds[at :: len(order)][:MOST_OF_PIECE] for at in range(len(order))]
    written, seen = Written(), set[str]()

    requests = [Request(place, _messages(pieces[at], of_piece[place]), replies) for place, at in enumerate(order)]

    def ask(client: ChatClient, request: Request) -> Reply:
        return request.reply(client, temperature=0.7, schema=_schema())

    found: dict[int, list[Asked]] = {}
    with answers(requests, ask, endpoint, concurrency) as answered:
        for done, (place, reply) in enumerate(answered, start=1):
            left = Counter(of_piece[place])
            found[place] = []
            text = "" if isinstance(reply, RequestFailedError) else reply.text
            why = f"no answer: {reply}" if isinstance(reply, RequestFailedError) else why_useless(reply)
            if why is not None:
                written.refused[why] += 1
            for record in _records(text, written) if why is None else ():
                asked = _asked(record, pieces[order[place]], refusal, written)
                if asked is None:
                    continue
                if asked.question.casefold() in seen or not left[asked.kind]:
                    written.refused["asked before, or more of its kind than wanted"] += 1
                    continue
                seen.add(asked.question.casefold())
                left[asked.kind] -= 1
                found[place].append(asked)
            if found[place]:
                requests[place].keep(endpoint.model, text)
            if progress is not None:
                progress(done, len(order))
    written.questions = [asked for place in sorted(found) for asked in found[place]]
    if not written.questions:
        smaller = argument("size of the pieces", "--piece", ("data questions",))
        better = f"choose a smaller {smaller}" if set(written.refused) == {CUT} else "use a larger model"
        raise DataServerError(
            f"{endpoint.model} at {endpoint.base_url} wrote no question that can be used for any of {len(order):,} "
            f"pieces ({', '.join(written.refused)}); {better}"
        )
    return written


def _messages(piece: Piece, kinds: Sequence[str]) -> list[dict[str, str]]:
    listed = ", ".join(f"{number} {kind}" for kind, number in Counter(kinds).items())
    meaning = "; ".join(f'"{kind}" {_MEANING[kind]}' for kind in dict.fromkeys(kinds))
    section = f"\nSection: {' > '.join(piece.headings)}" if piece.headings else ""
    passage = f"Document: {piece.document.name}{section}\nWrite: {listed}\n\nPassage:\n{piece.text}"
    return [{"role": "system", "content": INSTRUCTIONS.format(kinds=meaning)}, {"role": "user", "content": passage}]


def _schema() -> dict[str, Any]:
    properties: dict[str, Any] = {name: {"type": "string"} for name in _FIELDS}
    properties["kind"] = {"type": "string", "enum": list(KINDS)}
    item = {"type": "object", "properties": properties, "required": list(_FIELDS), "additionalProperties": False}
    return {
        "type": "object",
        "properties": {"questions": {"type": "array", "items": item}},
        "required": ["questions"],
        "additionalProperties": False,
    }


def _records(text: str, written: Written) -> list[Any]:
    document = json_in(text)
    records = document.get("questions") if isinstance(document, dict) else document
    if isinstance(records, list):
        return records
    written.refused["a reply without a list of questions"] += 1
    return []


def _asked(record: object, piece: Piece, refusal: str, written: Written) -> Asked | None:
    """A question that can be used; else None, and the reason is counted."""
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in _FIELDS):
        written.refused["no text where a question needs it"] += 1
        return None
    kind = record["kind"]
    question, answer = (" ".join(record[name].split()) for name in ("question", "answer"))
    if kind not in KINDS or not question or (kind != UNANSWERABLE and not answer):
        written.refused["no text where a question needs it"] += 1
        return None
    if len(question) > LONGEST_QUESTION or len(answer) > LONGEST_ANSWER:
        written.refused["too long"] += 1
        return None
    name = piece.document.name
    if kind == UNANSWERABLE:
        return Asked(question, refusal, kind, (name,))
    place = find_quote(piece.text, record["quote"])
    if place is None:
        written.refused["a quote that is not in the document"] += 1
        return None
    quote = piece.text[place[0] : place[1]]
    source = Source(name, quote, piece.page, piece.start + place[0])
    return Asked(question, answer, kind, (name,), (" ".join(quote.split()),), (source,))
