"""One question of a set, and how many of which kind a set has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kblam.data.quiz import OPEN, PAIR, SINGLE
from kblam.errors import DataError
from kblam.knowledge import Source

UNANSWERABLE = "unanswerable"
KINDS = (SINGLE, PAIR, OPEN, UNANSWERABLE)
DEFAULT_SHARES = {SINGLE: 0.55, PAIR: 0.1, OPEN: 0.1, UNANSWERABLE: 0.25}


@dataclass(frozen=True)
class Asked:
    """A question with its answer.

    Args:
        question, answer: not empty; what cannot be answered is answered with a refusal.
        kind: one of KINDS.
        names: of the things that it is about.
        contexts: what the answer rests on: facts as sentences, or the words of a document; none where there is no
            answer.
        sources: where documents say it.
    """

    question: str
    answer: str
    kind: str
    names: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """As plain values: a line of a set."""
        record: dict[str, Any] = {
            "question": self.question,
            "answer": self.answer,
            "contexts": list(self.contexts),
            "kind": self.kind,
            "group": self.names[0] if self.names else "",
            "names": list(self.names),
        }
        if self.sources:
            record["sources"] = [source.to_record() for source in self.sources]
        return record


def parse_shares(text: str) -> dict[str, float]:
    """Kinds with their shares, such as "single=0.5,pair=0.5", or kinds alone, in equal shares; together they are 1.

    Raises:
        DataError: a kind is none, stands twice, or a share is no positive number.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        kind, equals, given = (piece.strip() for piece in part.partition("="))
        try:
            share = float(given) if equals else 1.0
        except ValueError:
            share = math.nan
        if kind not in KINDS or kind in shares or not 0 < share < math.inf:
            raise DataError(
                f"{part.strip()!r} is no kind of question with its share; write KIND or KIND=SHARE, each kind once, of "
                f"{', '.join(KINDS)}"
            )
        shares[kind] = share
    return scaled(shares)


def scaled(shares: Mapping[str, float]) -> dict[str, float]:
    """The same, together 1."""
    whole = sum(shares.values())
    return {kind: share / whole for kind, share in shares.items()}
