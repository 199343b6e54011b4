"""What in a text asks, and which part of a long one is its question."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise

from kblam.knowledge.encoders.base import Encoder, reads_all
from kblam.stops import STOPS

ASKS = re.compile(
    r"(?:and |also |then |please )*"
    r"(?:(?:in|on|at|by|for|from|to|of|with|since|until|under|about)\s+(?=(?:what|which|whom|whose|how|when|where)\b))?"
    r"(?:what|who|whom|whose|when|where|which|why|how|tell|give|name|describe|explain|show|find|list|remind|"
    # "I need it by noon" goes with what was asked before.
    r"do you know|can you|could you|(?:i want|i would like|i need)(?!\s+(?:it|this|them)\b))\b",
    re.IGNORECASE,
)
# Where a question may begin: after "Hi! ", "Quick question: ", or "Excuse me, ", but "my cousin, who" is none.
_BEGINS = re.compile(
    r"^(?:\W*(?:hi|hello|hey|ok|okay|so|well)\b\W*)*|(?<=[:;!])\s+|(?<=,)\s+(?!wh(?:o|en|ere|ich))", re.I
)
# A stop ends a sentence if a new one begins after it; "St. Louis" and "J. Smith" go on.
SENTENCE_ENDS = re.compile(r"(?<=[?!])\s+|(?<=\.)(?<!\b[A-Z]\.)(?<!\b(?:St|Dr|Mr|Ms|No)\.)(?<!\bMrs\.)\s+(?=[A-Z])")
# Other stops need no space after them; a line that ends is a sentence too.
_ENDS = re.compile(rf"[\n\r]+|(?<=[{re.escape(''.join(sorted(STOPS - set('.?!'))))}])\s*|{SENTENCE_ENDS.pattern}")
_QUESTION_MARKS = tuple(one for one in STOPS if "QUESTION" in unicodedata.name(one, ""))
_CLOSING = " \t\"'”’»」』)*"
_WORD_BEGINS = re.compile(r"(?<!\S)\S")


def is_question(text: str) -> bool:
    """Whether a text has the form of a question or request, after its opening. "My name is Ann" has not."""
    return bool(_beginnings(text))


def asked_in(text: str, encoder: Encoder) -> str:
    """The part of a text that is its question: all of it, unless the encoder reads only a part.

    Then it is the sentences and lines that end with a question mark, then those that have the form of a question, then
    the others: of each kind the last, as many as the encoder reads, in the order of the text.

    Args:
        text: as it was asked.
        encoder: that makes its sentence vector.
    """
    return _shortened(text, lambda part: reads_all(encoder, part))


def _shortened(text: str, fits: Callable[[str], bool]) -> str:
    if fits(text):
        return text
    edges = [0, *(end.end() for end in _ENDS.finditer(text)), len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    order = sorted(range(len(pieces)), key=lambda at: (_rank(pieces[at]), -at))

    def together(count: int) -> str:
        return "".join(pieces[at] for at in sorted(order[:count])).strip()

    count = bisect_left(range(1, len(order) + 1), True, key=lambda count: not fits(together(count)))
    return together(count) if together(count) else _end_of(pieces[order[0]].strip(), fits)


def _rank(piece: str) -> int:
    """Which pieces are kept first: those of the lowest."""
    if piece.rstrip(_CLOSING).endswith(_QUESTION_MARKS):
        return 0
    return 1 if is_question(piece) else 2


def _end_of(sentence: str, fits: Callable[[str], bool]) -> str:
    """A sentence that is too long from where it asks, or its last words. One that begins with a question is left."""
    places: Sequence[int] = _beginnings(sentence)
    if places and not sentence[: places[0]].strip():
        return sentence
    places = places or [one.start() for one in _WORD_BEGINS.finditer(sentence)]
    found = bisect_left(places, True, key=lambda at: fits(sentence[at:]))
    return sentence[places[min(found, len(places) - 1)] :]


def _beginnings(text: str) -> list[int]:
    """Where questions begin in a text."""
    return [one.end() for one in _BEGINS.finditer(text) if ASKS.match(text, one.end())]
