"""What came of each piece, kept as soon as it is there: a killed extraction goes on, and asks nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from kblam.data import journal
from kblam.data.documents import Piece
from kblam.data.extracting.asking import INSTRUCTIONS, Taken
from kblam.knowledge import triples_of


def key_of(piece: Piece, model: str) -> str:
    """What an entry is found by: the model, the instructions, the document and the text with what stands above it."""
    parts = (model, INSTRUCTIONS, piece.document.name, str(piece.start), *piece.headings, piece.head, piece.text)
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Journal(journal.Journal[Taken]):
    """What came of the pieces of an extraction."""

    _key, _work = "piece", ("an", "extraction")
    _is_passing = True  # one that is there says that the file beside it is an extraction's

    def _fields(self, kept: Taken) -> dict[str, Any]:
        return {
            "triples": [triple.to_record() for triple in kept.triples],
            "refused": dict(kept.refused),
            "tokens": [kept.prompt_tokens, kept.reply_tokens] if kept.is_counted else None,
        }

    def _answer(self, entry: Mapping[str, Any]) -> Taken:
        tokens, refused = entry["tokens"], Counter[str](entry["refused"])
        prompt, reply = tokens or (0, 0)
        if any(type(count) is not int for count in (prompt, reply, *refused.values())):
            raise TypeError("counts are whole numbers")
        return Taken(
            [triple for record in entry["triples"] for triple in triples_of(record)],
            refused,
            None,
            prompt,
            reply,
            tokens is not None,
        )
