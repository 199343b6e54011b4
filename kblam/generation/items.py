"""What the items of one sentence ask for, each as a question of its own.

questions    "What is the color of A and who founded B?"
facts        "the color of A and the founder of B", "A's color, B's founder and C's age"
properties   "the color, the age and founder of A", "A's color and founder", "the color of A and its founder"
entities     "the color of A, B and C", "Who founded A and B?"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kblam.knowledge.asking import ASKS, is_question
from kblam.knowledge.filler import FILLER
from kblam.knowledge.mention import words

IsProperty = Callable[[str], bool]
_ARTICLE = re.compile(r"(?:the|an?)\s+", re.IGNORECASE)
_OF = re.compile(r"(?<!\s)\s+of\s+", re.IGNORECASE)
_OWNER = re.compile(r"(?P<owner>\S.*?(?:['’]s|s['’]))\s+(?P<what>.+)")
_ITS = re.compile(r"(?:its|his|her|their)\s+(?P<what>.+)", re.IGNORECASE)
_NAME_AT_END = re.compile(r"(?:[^\W_a-z][\w'’.-]*\s+)*[^\W_a-z][\w'’.-]*$")
_LONGEST_NAME = _LONGEST_PROPERTY = 200  # characters


def is_asking(text: str) -> bool:
    """Whether a sentence asks for something of its own: greetings, thanks and "Can you help?" do not."""
    return any(word not in FILLER for word in words(text))


@dataclass(frozen=True)
class _Item:
    """What stands beside a joint.

    Args:
        text: the words.
        of: what they may be read as, each a (property, entity): "the color" of "A"; none without an entity.
        owner: "A's"; empty if nobody owns it.
        is_property: whether the words are a property of the knowledge base.
    """

    text: str
    of: tuple[tuple[str, str], ...]
    owner: str
    is_property: bool

    @property
    def is_whole(self) -> bool:
        """Whether it says an entity and its property."""
        return bool(self.of or self.owner)

    @property
    def said(self) -> str:
        """As the object of a question."""
        return self.text if self.owner or _ARTICLE.match(self.text) else f"the {self.text}"


def completed(items: Sequence[str], is_property: IsProperty) -> Iterator[tuple[tuple[str, ...], bool]]:
    """The questions that items may stand for, and whether the question names the property and entity of each.

    Args:
        items: what stands before, between and after the joints of a sentence; the first with its opening ("What is").
        is_property: whether words are a property of the knowledge base.
    """
    first, *others = items
    asking = [ASKS.match(other) is not None for other in others]
    if is_asking(first) and all(asking) and (len(others) == 1 or all(map(is_asking, others))):
        is_explicit = is_question(first) or _read(first, is_property).is_whole
        yield (first, *(other[0].upper() + other[1:] for other in others)), is_explicit
        return
    if len(others) > 1 and any(asking):
        return
    frame, rest = _frame(first)
    head, tail = _read(rest, is_property), [_read(other, is_property) for other in others]
    its = [_ITS.fullmatch(other) for other in others]
    if any(its):
        whats = [one["what"] for one in its if one is not None]
        if len(whats) == len(others) and head.owner:
            yield (first, *(f"{frame}{head.owner} {what}" for what in whats)), True
        elif len(whats) == len(others):
            for _, entity in head.of:
                yield (first, *(f"{frame}the {what} of {entity}" for what in whats)), True
        return
    if head.is_whole and all(item.is_whole for item in tail):
        yield (first, *(frame + item.said for item in tail)), True
    if not any(item.is_whole for item in (head, *tail[:-1])):
        bare = (head, *tail[:-1])
        for prop, entity in tail[-1].of:
            are_properties = all(item.is_property for item in bare) and is_property(_without_article(prop))
            yield (*(f"{frame}{item.said} of {entity}" for item in bare), frame + tail[-1].said), are_properties
    if not any(item.of for item in tail):
        yield from _sharing(first, frame, head, tail)


def _sharing(first: str, frame: str, head: _Item, tail: Sequence[_Item]) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Where the first item says what the others leave out: its owner, its property or its entity."""
    are_properties = all(item.is_property for item in tail)
    are_names = all(_is_name(item.text) for item in tail)
    is_shared = not any(item.owner for item in tail)
    if head.owner and is_shared:
        yield (first, *(f"{frame}{head.owner} {_without_article(item.text)}" for item in tail)), are_properties
    for prop, entity in head.of if is_shared else ():
        if are_properties:
            yield (first, *(f"{frame}{item.said} of {entity}" for item in tail)), True
        else:
            yield (first, *(f"{frame}{prop} of {item.text}" for item in tail)), are_names and _is_name(entity)
    if head.is_whole:
        return
    # No further back than a name is long: the search is quadratic.
    since = max(0, len(first) - _LONGEST_NAME)
    name = _NAME_AT_END.search(first, since)
    if name is not None and first[since : name.start()].strip():
        yield (first, *(first[: name.start()] + item.text for item in tail)), are_names and len(tail) > 1


def _read(text: str, is_property: IsProperty) -> _Item:
    owned = _OWNER.fullmatch(text)
    owner = "" if owned is None else owned["owner"]
    # No further than a property is long: a question may hold thousands of "of".
    if len(text) <= _LONGEST_PROPERTY and is_property(_without_article(text)):
        return _Item(text, (), owner, True)
    places = [(one.start(), one.end()) for one in _OF.finditer(text)]
    short = [(at, end) for at, end in places if at <= _LONGEST_PROPERTY]
    known = [(at, end) for at, end in short if is_property(_without_article(text[:at]))]
    # "The mayor of City of London", "the country of origin of A": without a known property either "of" may be it.
    taken = known[-1:] or list(dict.fromkeys((*places[:1], *places[-1:])))
    return _Item(text, tuple((text[:at], text[end:]) for at, end in taken), owner, False)


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


def _is_name(text: str) -> bool:
    """Whether each word is written as those of names are."""
    return _NAME_AT_END.fullmatch(text) is not None


def _without_article(text: str) -> str:
    return text[article.end() :] if (article := _ARTICLE.match(text)) is not None else text
