"""Questions about two facts: how an English question may be cut into questions about one fact each.

The rules only propose. A cut counts if each part, asked alone, finds a triple of its own (`decision.py`), so that "the
CEO of Procter and Gamble" stays one question. The rules, where " and " may also be ", and also", "as well as", "plus"
or "&":

    two questions    "What is the color of A? Who founded B?", "What is the color of A and who founded B?"
    two facts        "the color of A and the founder of B", "A's color and B's founder"
    two properties   "the color and (the) founder of A", "A's color and founder", "the color of A and its founder"
    two entities     "the color of A and B", "Who founded A and B?"
    anything else    both sides of a comma, semicolon, " + ", "and", "or", "then", "together with" as they stand
    two names        after the first, before the second, or the whole without either (`by_names`)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from kblam.knowledge.mention import words

MOST_SPLITS = 8
# Of so many places in a sentence where it may be cut, the first ones.
_MOST_JOINTS = 64
# A run of spaces is tried from its beginning alone: from each of them would take time that grows with its cube.
_JOINTS = re.compile(
    r"(?:(?:(?<!\s)\s+)?,\s+|(?<!\s)\s+)(?:and also|and|as well as|plus|&)\s+(?:also\s+)?", re.IGNORECASE
)
# Where both sides may be questions as they stand, if nothing better is known of them.
_BREAKS = re.compile(
    r"(?:(?<!\s)\s+)?[,;]\s+(?:(?:and|or|then|also)\s+)*"
    r"|(?<!\s)\s+(?:\+|and|or|then|as well as|together with|along with|plus|&)\s+",
    re.IGNORECASE,
)
_PLEASE = re.compile(r"(?:,|(?<![\s,]))\s+please$", re.IGNORECASE)
# A stop ends a sentence if a new one begins after it; "St. Louis" and "J. Smith" go on.
_ENDS = re.compile(r"(?<=[?!])\s+|(?<=\.)(?<!\b[A-Z]\.)(?<!\b(?:St|Dr|Mr|Ms|No)\.)(?<!\bMrs\.)\s+(?=[A-Z])")
_ASKS = re.compile(
    r"(?:and |also |then |please )*"
    r"(?:what|who|whom|whose|when|where|which|why|how|tell|give|name|describe|explain|show|find|list|remind|"
    r"do you know|can you|could you|i want|i would like|i need)\b",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"\b(?:the|an?)\s+", re.IGNORECASE)
_OWNER = re.compile(r"(?P<owner>\S.*?(?:['’]s|s['’]))\s+(?P<what>.+)")
_ITS = re.compile(r"(?:its|his|her|their)\s+(?P<what>.+)", re.IGNORECASE)
_NAME_AT_END = re.compile(r"(?:[^\W_a-z][\w'’.-]*\s+)*[^\W_a-z][\w'’.-]*$")
_LONGEST_NAME = 200
# Words that ask without saying for what. Greetings and thanks are made of them, and so is "Tell me about A".
_FILLER = """
a about again all also am an and any anything are as be brief but can care check cheers could curious d describe
details did do does else everything explain facts find for forgot friend from get give good got had has have hello
help hey hi homework how i idea important in info information introduce is it its just know knows learn let like list
ll look m me more much must my name need next nobody now of okay on once one out please question quick re remind s
said say show so some something summarise summarize sure take tell thank thanks that the then there thing this time to
today told up us want wanted was we were what whats when where which who whos why will wonder wondering would you your
"""
FILLER = frozenset(_FILLER.split())


@dataclass(frozen=True)
class Split:
    """A question as two or more questions about one fact.

    Args:
        parts: each a whole question.
        cut: the characters [start, end) of the question where it was cut; empty between sentences.
        is_explicit: whether each part has its own property and entity in the question's own words, so that a part
            without an answer is a gap, and no misreading of one name as two.
        one_property: whether the parts must find the same property.
    """

    parts: tuple[str, ...]
    cut: tuple[int, int]
    is_explicit: bool
    one_property: bool = False


def splits(question: str) -> list[Split]:
    """The ways to cut a question, at most `MOST_SPLITS`; none for a question that is about one fact for all we know."""
    kept: dict[tuple[str, ...], Split] = {}
    for split in _proposed(question):
        if len(set(split.parts)) == len(split.parts):
            kept.setdefault(split.parts, split)
        if len(kept) == MOST_SPLITS:
            break
    return list(kept.values())


def _proposed(question: str) -> Iterator[Split]:
    """The cuts that rules propose, of whole sentences first; one may be there twice, or have the same part twice."""
    sentences = _sentences(question)
    asking = [text for _, text in sentences if is_asking(text)]
    if 1 < len(asking) <= 3:
        at = sentences[1][0]
        # "Please hurry." has words of its own and asks for nothing: it is no part that an answer could lack.
        yield Split(tuple(asking), (at, at), all(_ASKS.match(text) for text in asking))
    for start, text in sentences:
        if not is_asking(text):
            continue
        before, after = question[:start], question[start + len(text) :]
        if len(asking) > 1:
            before = after = ""
        for split in _within(text):
            cut = (split.cut[0] + start, split.cut[1] + start)
            parts = tuple((before + part + after).strip() for part in split.parts)
            yield Split(parts, cut, split.is_explicit)


def by_names(question: str, names: Sequence[tuple[int, int]]) -> list[Split]:
    """Cuts of a question that says two names, in any language.

    After the first ("the color of A ... the founder of B"), before the second ("A's color ... B's founder"), and the
    question with one name each ("Which color do A and B have?"), which is about one property.

    Args:
        question: the text.
        names: characters [start, end) of the names that it says, in their order there; none overlaps another.
    """
    if len(names) < 2:
        return []
    (first, after), (second, end) = names[:2]
    cuts = dict.fromkeys((after, second))
    found = [Split((question[:at].strip(), question[at:].strip()), (at, at), False) for at in cuts]
    alone = question[:second] + question[end:], question[:first] + question[after:]
    return [*found, Split((alone[0].strip(), alone[1].strip()), (after, after), False, one_property=True)]


def is_asking(text: str) -> bool:
    """Whether a sentence asks for something of its own: greetings, thanks and "Can you help?" do not."""
    return any(word not in FILLER for word in words(text))


def _sentences(question: str) -> list[tuple[int, str]]:
    """(place of the first character, text) of each sentence."""
    found, at = [], 0
    for end in _ENDS.finditer(question):
        found.append((at, question[at : end.start()]))
        at = end.end()
    return [*found, (at, question[at:])] if question[at:].strip() else found


def _within(sentence: str) -> Iterator[Split]:
    """The cuts of one sentence, the surest first."""
    body = sentence.rstrip(" ?!.")
    mark = sentence[len(body) :] or "?"
    body = _PLEASE.sub("", body)
    has_rule = False
    for joint in islice(_JOINTS.finditer(body), _MOST_JOINTS):
        left, right = body[: joint.start()], body[joint.end() :]
        if not (left.strip() and right.strip()):
            continue
        cut = (joint.start(), joint.end())
        for first, second, is_explicit in _pairs(left, right):
            has_rule = True
            yield Split((_singular(first) + mark, _singular(second) + mark), cut, is_explicit)
    for joint in () if has_rule else islice(_BREAKS.finditer(body), _MOST_JOINTS):
        left, right = body[: joint.start()].strip(), body[joint.end() :].strip()
        if is_asking(left) and is_asking(right):
            yield Split((left + mark, right + mark), (joint.start(), joint.end()), is_explicit=False)


def _pairs(left: str, right: str) -> Iterator[tuple[str, str, bool]]:
    """(first question, second question, whether it is explicit) for the words on both sides of a joint."""
    if _ASKS.match(right) and is_asking(left):
        yield left, right[0].upper() + right[1:], True
        return
    frame, rest = _frame(left)
    owned, right_owned, its = _OWNER.fullmatch(rest), _OWNER.fullmatch(right), _ITS.fullmatch(right)
    left_of, right_of = " of " in rest, " of " in right
    if its is not None:
        if owned is not None:
            yield left, f"{frame}{owned['owner']} {its['what']}", True
        elif left_of:
            yield left, f"{frame}the {its['what']} of {rest.split(' of ', 1)[1]}", True
        return
    if right_owned is not None and (owned is not None or left_of):
        yield left, frame + right, True
    if right_of and (left_of or owned is not None):
        yield left, frame + _with_article(right), True
    if right_of and not left_of and owned is None:
        of = " of " + right.split(" of ", 1)[1]
        yield frame + _with_article(rest) + of, frame + _with_article(right), False
    if owned is not None and not right_of and right_owned is None:
        yield left, f"{frame}{owned['owner']} {_ARTICLE.sub('', right, count=1)}", False
    if left_of and not right_of and right_owned is None:
        yield left, f"{frame}{rest.split(' of ', 1)[0]} of {right}", False
    # No further back than a name is long: the search is quadratic.
    since = max(0, len(left) - _LONGEST_NAME)
    name = _NAME_AT_END.search(left, since)
    if not left_of and not right_of and owned is None and name is not None and left[since : name.start()].strip():
        yield left, left[: name.start()] + right, False


def _frame(left: str) -> tuple[str, str]:
    """A question's opening ("Hello, what is "), and what it asks for ("the color of A")."""
    at = 0
    for word in re.finditer(r"\S+\s*", left):
        bare = words(word[0])
        if _ARTICLE.match(word[0]) or not bare or any(one not in FILLER for one in bare):
            # An opening such as "Quick question from a visitor:" ends with its colon or comma.
            opening = max(left.rfind(": "), left.rfind(", "))
            if opening < at:
                break
            return _after_opening(left, opening + 2)
        at = word.end()
    return left[:at], left[at:]


def _after_opening(left: str, at: int) -> tuple[str, str]:
    frame, rest = _frame(left[at:])
    return left[:at] + frame, rest


def _with_article(text: str) -> str:
    return text if _ARTICLE.match(text) else f"the {text}"


def _singular(question: str) -> str:
    """ "What are A's color" asks for one thing now."""
    return re.sub(r"\b([Ww]hat|[Ww]hich|[Ww]ho) are\b", r"\1 is", question, count=1).strip()
