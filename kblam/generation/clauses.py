"""Questions about several facts: how an English question may be cut into questions about one fact each.

The rules only propose. A cut counts if each part, asked alone, finds a triple of its own (`decision.py`), so that "the
CEO of Procter and Gamble" stays one question. The rules, where " and " may also be ", and also", "as well as", "plus"
or "&":

    questions        "What is the color of A? Who founded B?", "What is the color of A and who founded B?"
    items            what stands beside " and ", or in a list that ends with it: "the color of A, B and C" (`items.py`)
    anything else    both sides of a comma, semicolon, " + ", "and", "or", "then", "together with" as they stand
    names            after each but the last, before each but the first, where what belongs to each ends, or with one of
                     them at a time (`by_names`)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile, islice, pairwise

from kblam.generation.items import IsProperty, completed, is_asking
from kblam.knowledge.asking import ASKS, SENTENCE_ENDS, is_question

MOST_SPLITS = 8
# A question with more items or names than this is not cut between all of them.
MOST_FACTS = 8
# Of so many places between items of a list, the first ones.
_MOST_BETWEEN = 64
# A run of spaces is tried from its beginning alone: from each of them would take time that grows with its cube.
_JOINTS = re.compile(
    r"(?:(?:(?<!\s)\s+)?,\s+|(?<!\s)\s+)(?:and also|and|as well as|plus|&)\s+(?:also\s+)?", re.IGNORECASE
)
# What stands between the items of a list.
_BETWEEN = re.compile(rf"{_JOINTS.pattern}|,\s+", re.IGNORECASE)
# Where both sides may be questions as they stand, if nothing better is known of them.
_BREAKS = re.compile(
    r"(?:(?<!\s)\s+)?[,;]\s+(?:(?:and|or|then|also)\s+)*"
    r"|(?<!\s)\s+(?:\+|and|or|then|as well as|together with|along with|plus|&)\s+",
    re.IGNORECASE,
)
# Between a name and its property, on either side.
_OWNS = re.compile(r"['’]s?\s+")
_OF_NAME = re.compile(r"(?<!\s)\s+(?:of|for)\s+$", re.IGNORECASE)
_THE = re.compile(r"\bthe\s+$", re.IGNORECASE)
# A property with more words or characters than this is not looked for beside a name.
_MOST_WORDS, _LONGEST = 12, 200
_WORD = re.compile(r"\S+")
_PLEASE = re.compile(r"(?:,|(?<![\s,]))\s+please$", re.IGNORECASE)


@dataclass(frozen=True)
class Split:
    """A question as two or more questions about one fact.

    Args:
        parts: each a whole question.
        cuts: the characters [start, end) of the question at each place where it was cut; empty between sentences.
        is_explicit: whether each part has its own property and entity in the question's own words, so that a part
            without an answer is a gap, and no misreading of one name as two.
        one_property: whether the parts must find the same property.
    """

    parts: tuple[str, ...]
    cuts: tuple[tuple[int, int], ...]
    is_explicit: bool
    one_property: bool = False


def splits(question: str, is_property: IsProperty = lambda text: False) -> list[Split]:
    """The ways to cut a question, at most `MOST_SPLITS`; none for a question that is about one fact for all we know.

    Args:
        question: the text.
        is_property: whether words are a property of the knowledge base, in any case: the "date of birth" of someone is
            no entity called birth that has a date.
    """
    kept: dict[tuple[str, ...], Split] = {}
    for split in _proposed(question, is_property):
        if len(set(split.parts)) == len(split.parts):
            kept.setdefault(split.parts, split)
        if len(kept) == MOST_SPLITS:
            break
    return list(kept.values())


def _proposed(question: str, is_property: IsProperty) -> Iterator[Split]:
    """The cuts that rules propose, of whole sentences first; one may be there twice, or have the same part twice."""
    sentences = _sentences(question)
    asking = [(start, text) for start, text in sentences if is_asking(text)]
    if 1 < len(asking) <= MOST_FACTS:
        # "Please hurry." has words of its own and asks for nothing: it is no part that an answer could lack.
        is_explicit = all(is_question(text) for _, text in asking)
        yield Split(tuple(text for _, text in asking), tuple((at, at) for at, _ in asking[1:]), is_explicit)
    for start, text in asking:
        before, after = question[:start], question[start + len(text) :]
        if len(asking) > 1:
            before = after = ""
        for split in _within(text, is_property):
            cuts = tuple((at + start, end + start) for at, end in split.cuts)
            parts = tuple((before + part + after).strip() for part in split.parts)
            yield Split(parts, cuts, split.is_explicit)


def by_names(
    question: str, names: Sequence[tuple[int, int]], is_property: IsProperty = lambda text: False
) -> list[Split]:
    """Cuts of a question that says several names, in any language.

    After each but the last ("the color of A ... the founder of B"), before each but the first ("A's color ... B's
    founder"), behind or before a property that is said with a name ("A's color ... the founder of B"), and the question
    with one name at a time ("Which color do A and B have?"), which is about one property.

    Args:
        question: the text.
        names: characters [start, end) of the names that it says, in their order there; none overlaps another.
        is_property: as `splits` takes it.
    """
    if not 2 <= len(names) <= MOST_FACTS:
        return []
    found = []
    ends, starts = tuple(end for _, end in names[:-1]), tuple(start for start, _ in names[1:])
    between = [_between(question, end, start, is_property) for end, start in zip(ends, starts, strict=True)]
    ways = [ends, starts]
    if None not in between:
        ways.append(tuple(at for at in between if at is not None))
    for cuts in dict.fromkeys(ways):
        edges = [0, *cuts, len(question)]
        parts = [question[start:end].strip() for start, end in pairwise(edges)]
        found.append(Split(tuple(parts), tuple((at, at) for at in cuts), False))
    alone = tuple(_with_one(question, names, kept) for kept in range(len(names)))
    return [*found, Split(alone, tuple(zip(ends, starts, strict=True)), False, one_property=True)]


def _between(question: str, end: int, start: int, is_property: IsProperty) -> int | None:
    """Where to cut between a name that ends and one that starts, by a property of either; None if none is said so."""
    owns = _OWNS.match(question, end, start)
    if owns is not None:
        first = owns.end()
        for word in reversed(list(islice(_WORD.finditer(question, first, min(start, first + _LONGEST)), _MOST_WORDS))):
            last = first + len(question[first : word.end()].rstrip(",;:.?!"))
            if is_property(question[first:last]):
                return last
    of = _OF_NAME.search(question, max(end, start - _LONGEST), start)
    if of is not None:
        last = of.start()
        for word in list(_WORD.finditer(question, max(end, last - _LONGEST), last))[-_MOST_WORDS:]:
            if is_property(question[word.start() : last]):
                article = _THE.search(question, end, word.start())
                return word.start() if article is None else article.start()
    return None


def _with_one(question: str, names: Sequence[tuple[int, int]], kept: int) -> str:
    """The question with one of its names alone."""
    said, at = "", 0
    for place, (start, end) in enumerate(names):
        said += question[at:start] + question[start:end] * (place == kept)
        at = end
    return (said + question[at:]).strip()


def _sentences(question: str) -> list[tuple[int, str]]:
    """(place of the first character, text) of each sentence."""
    found, at = [], 0
    for end in SENTENCE_ENDS.finditer(question):
        found.append((at, question[at : end.start()]))
        at = end.end()
    return [*found, (at, question[at:])] if question[at:].strip() else found


def _within(sentence: str, is_property: IsProperty) -> Iterator[Split]:
    """The cuts of one sentence, the surest first."""
    body = sentence.rstrip(" ?!.")
    mark = sentence[len(body) :] or "?"
    body = _PLEASE.sub("", body)
    joints = _few(_JOINTS, body)
    has_rule = False
    for cuts in (*_lists(body), *((joint,) for joint in joints)):
        edges = [0, *(at for cut in cuts for at in cut), len(body)]
        items = [body[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
        if not all(item.strip() for item in items):
            continue
        for parts, is_explicit in completed(items, is_property):
            has_rule = True
            yield Split(tuple(_singular(part) + mark for part in parts), cuts, is_explicit)
    for start, end in () if has_rule else _few(_BREAKS, body):
        left, right = body[:start].strip(), body[end:].strip()
        if is_asking(left) and is_asking(right):
            yield Split((left + mark, right + mark), ((start, end),), is_explicit=False)


def _few(joint: re.Pattern[str], body: str) -> list[tuple[int, int]]:
    """Where a sentence has joints, each a place to cut it in two; nowhere if it has too many for so few facts."""
    found = [one.span() for one in islice(joint.finditer(body), MOST_FACTS + 1)]
    return found if len(found) <= MOST_FACTS else []


def _lists(body: str) -> Iterator[tuple[tuple[int, int], ...]]:
    """Where a list of three or more items that ends with "and" is to be cut; none where there is none."""
    between = [one.span() for one in islice(_BETWEEN.finditer(body), _MOST_BETWEEN)]
    # "Hello, " is no item.
    cuts = tuple(dropwhile(lambda cut: not is_asking(body[: cut[0]]), between))
    asking = [ASKS.match(body, end) is not None for _, end in cuts]
    if not all(asking) and any(asking):
        # "I have a guest, what is the color of A, B and C?"
        cuts = cuts[len(asking) - asking[::-1].index(True) :]
    if 2 <= len(cuts) < MOST_FACTS and _JOINTS.fullmatch(body, *cuts[-1]):
        yield cuts


def _singular(question: str) -> str:
    """ "What are A's color" asks for one thing now."""
    return re.sub(r"\b([Ww]hat|[Ww]hich|[Ww]ho) are\b", r"\1 is", question, count=1).strip()
