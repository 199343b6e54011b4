"""What a model is asked of a piece of a document, and which parts of its reply can be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kblam.data.documents import Piece
from kblam.data.endpoint import ChatClient, Reply, beginning, json_in
from kblam.data.extracting.quotes import find_quote
from kblam.errors import TripleFormatError, argument
from kblam.knowledge import Source, Triple

# Of the tries of a reply that cannot be used: at 0 a model says the same again.
TEMPERATURES = (0.0, 0.7, 0.7)
LONGEST_NAME, LONGEST_PROPERTY, LONGEST_VALUE = 100, 60, 400  # characters
_FIELDS = ("name", "property", "value", "quote")
INSTRUCTIONS = """You extract facts from a passage of a document and reply with JSON alone.
Each fact has
- "name": what it is about, spelled out as the document calls it; never a pronoun, never "the company";
- "property": what is said of it, a few words in small letters, such as "founder" or "boiling point";
- "value": the answer, of 1 to 20 words, in the words of the passage; numbers with their units, dates as they stand;
- "quote": the words of the passage that say it, copied letter by letter, one sentence at most.
Take every fact that the passage states. Take nothing that it does not state, and nothing that you know from elsewhere.
A passage without facts has an empty list."""
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "triples": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in _FIELDS},
                "required": list(_FIELDS),
                "additionalProperties": False,
            },
        }
    },
    "required": ["triples"],
    "additionalProperties": False,
}


@dataclass
class Taken:
    """What came of a piece.

    Args:
        triples: that can be used, each with its source.
        refused: why facts were left out, and how many for each reason.
        failed: why the piece gave nothing at all; None where it did.
        prompt_tokens, reply_tokens: of all tries, as the server counts them.
        is_counted: whether the server counted every try.
        is_cut: whether it failed by a length limit, so that another model would do no better.
    """

    triples: list[Triple] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    failed: str | None = None
    prompt_tokens: int = 0
    reply_tokens: int = 0
    is_counted: bool = True
    is_cut: bool = False

    def count(self, reply: Reply) -> None:
        """Adds the tokens of a try."""
        self.is_counted &= reply.prompt_tokens is not None and reply.reply_tokens is not None
        self.prompt_tokens += reply.prompt_tokens or 0
        self.reply_tokens += reply.reply_tokens or 0


def take(client: ChatClient, piece: Piece, most_tokens: int | None = None) -> Taken:
    """Asks for the facts of a piece, again where the reply is no JSON of the schema, unless it was cut.

    Raises:
        DataError, DataServerError, StoppedError: as `ChatClient.ask`.
    """
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": _prompt(piece)}]
    taken = Taken()
    for temperature in TEMPERATURES:
        reply = client.ask(messages, temperature=temperature, schema=SCHEMA, most_tokens=most_tokens)
        taken.count(reply)
        if reply.is_refusal:
            taken.failed = f"the model refused: {beginning(reply.refusal or reply.text, 100) or 'no reason'}"
            return taken
        if reply.is_cut:
            taken.failed, taken.is_cut = _cut(), True
            return taken
        records = _records(reply.text)
        if records is not None:
            taken.failed = None
            for record in records:
                _use(record, piece, taken)
            return taken
        taken.failed = f"no list of triples in the reply: {beginning(reply.text, 60)!r}"
    return taken


def _cut() -> str:
    higher = argument("most_tokens", "--max-tokens", ("data extract",))
    smaller = argument("size of the pieces", "--piece", ("data extract",))
    return f"the reply was cut at its length limit; choose a higher {higher}, or a smaller {smaller}"


def _prompt(piece: Piece) -> str:
    where = [f"Document: {piece.document.name}"]
    if piece.headings:
        where.append(f"Section: {' > '.join(piece.headings)}")
    if piece.head:
        where.append(f"The passage goes on with a table of these columns:\n{piece.head}")
    return "\n".join(where) + f"\n\nPassage:\n{piece.text}"


def _records(text: str) -> list[Any] | None:
    document = json_in(text)
    records = document.get("triples") if isinstance(document, dict) else document
    return records if isinstance(records, list) else None


def _use(record: object, piece: Piece, taken: Taken) -> None:
    """Adds a fact with its source, or the reason why it cannot be used."""
    if not isinstance(record, Mapping) or not all(isinstance(record.get(name), str) for name in _FIELDS):
        taken.refused["no text where a fact needs it"] += 1
        return
    name, prop, value = (" ".join(record[part].split()) for part in _FIELDS[:3])
    if len(name) > LONGEST_NAME or len(prop) > LONGEST_PROPERTY or len(value) > LONGEST_VALUE:
        taken.refused["too long"] += 1
        return
    place = find_quote(piece.text, record["quote"])
    if place is None:
        taken.refused["a quote that is not in the document"] += 1
        return
    start, end = place
    try:
        source = Source(piece.document.name, piece.text[start:end], piece.page, piece.start + start)
        taken.triples.append(Triple(name, prop, value.removesuffix("."), sources=(source,)))
    except TripleFormatError:
        taken.refused["no text where a fact needs it"] += 1
