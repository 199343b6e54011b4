"""How people ask: for one fact, for two, for all about an entity, and for what is not there.

Phrasings that training never sees are apart (`held_out=True`). Every question is now and then typed carelessly: in
lower case, without its question mark, with words around it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence

from kblam.data.loose import LOOSE
from kblam.data.meaning import same_meaning
from kblam.data.phrases import phrases, specific
from kblam.errors import DataError
from kblam.knowledge.identifiers import spoken

__all__ = [
    "Only",
    "general_questions",
    "is_missing",
    "open_question",
    "pair_question",
    "question",
]

SPECIFIC_SHARE = 0.45  # of the questions for a property that has some
LOOSE_SHARE = 0.3  # of those that may be loose
NATURAL_SHARE = 0.5  # of the questions for a property that comes with some

# Whether a phrasing may be used.
Only = Callable[[str], bool]
_LOOSE_OF: dict[str, list[str]] = {}
for _template, _properties in LOOSE.items():
    for _property in _properties:
        _LOOSE_OF.setdefault(_property, []).append(_template)


def question(
    fact_property: str,
    name: str,
    rng: random.Random,
    held_out: bool = False,
    *,
    others: Collection[str] | None = None,
    only: Only | None = None,
    natural: Sequence[str] = (),
) -> str:
    """A question for one fact.

    Args:
        fact_property, name: of the fact.
        rng: draws.
        held_out: use the phrasings that training never sees.
        others: the other properties the entity has. Given them, a question may be loose ("Who leads X?") as long as
            it means this property and none of the others; without them it names its property clearly.
        only: the phrasings that may be used, as far as there are any.
        natural: questions that mean this property, with {n}; half of what is drawn is of these, if there are any.
    """
    if natural and rng.random() < NATURAL_SHARE:
        return _typed(rng.choice(natural).format(n=name), name, rng, held_out)
    return _typed(_one(fact_property, name, rng, held_out, others, only), name, rng, held_out)


def open_question(name: str, rng: random.Random, held_out: bool = False, *, only: Only | None = None) -> str:
    """A question for all that is known about a name; `only` as in `question`."""
    template = rng.choice(_those(phrases("open").of(held_out), only))
    return _typed(template.format(n=name), name, rng, held_out)


def general_questions(*, held_out: bool = False) -> tuple[str, ...]:
    """What no knowledge base of ours answers, and any language model does on its own."""
    return phrases("general").of(held_out)


def pair_question(first: tuple[str, str], second: tuple[str, str], rng: random.Random, held_out: bool = False) -> str:
    """A question for two facts, each given as (name, property): of two entities, or of one.

    Raises:
        DataError: the two are one fact.
    """
    (n1, p1), (n2, p2) = first, second
    if first == second:
        raise DataError(f"a question about two facts needs two, got the {p1} of {n1} twice")
    if rng.random() < 0.2:
        joint = rng.choice(phrases("joints").of(held_out))
        one, two = (_one(prop, name, rng, held_out, None) for name, prop in (first, second))
        text = f"{one} {joint} {_uncapitalised(two, n2)}"
    else:
        kind = "one_entity" if n1 == n2 else "pair"
        if p1 == p2 and rng.random() < 0.6:
            kind = "one_property"
        asked = {"n1": n1, "p1": spoken(p1), "n2": n2, "p2": spoken(p2)}
        text = _capitalised(rng.choice(phrases(kind).of(held_out)).format(**asked), rng)
    return _typed(text, n1, rng, held_out)


def is_missing(prop: str, known: Collection[str]) -> bool:
    """Whether none of the known properties answers a question for this one."""
    return not any(same_meaning(prop, other) for other in known)


def _one(
    prop: str,
    name: str,
    rng: random.Random,
    held_out: bool,
    others: Collection[str] | None,
    only: Only | None = None,
) -> str:
    """A question for one fact, neatly typed."""
    asked = spoken(prop)
    telling = specific().get(asked)
    if telling is not None and rng.random() < SPECIFIC_SHARE:
        if others is not None and not held_out and rng.random() < LOOSE_SHARE:
            loose: Sequence[str] = [text for text in _LOOSE_OF.get(asked, ()) if not _could_mean(text, others, prop)]
            if loose := _those(loose, only):
                return rng.choice(loose).format(n=name)
        return rng.choice(_those(telling.of(held_out), only)).format(n=name)
    template = rng.choice(_those(phrases("one").of(held_out), only))
    return _capitalised(template.format(p=asked, n=name), rng)


def _those(texts: Sequence[str], only: Only | None) -> Sequence[str]:
    """The texts that may be used; all of them where none may."""
    return texts if only is None else [text for text in texts if only(text)] or texts


def _could_mean(text: str, others: Collection[str], prop: str) -> bool:
    """Whether a loose question could ask for another property than the one meant."""
    return any(same_meaning(other, meant) for other in others if other != prop for meant in LOOSE[text])


def _capitalised(text: str, rng: random.Random) -> str:
    return text[0].upper() + text[1:] if rng.random() < 0.85 else text


def _uncapitalised(text: str, name: str) -> str:
    """The text in the middle of a line: its first letter small, unless a name begins there."""
    return text if text.startswith((name, "I ")) else text[0].lower() + text[1:]


def _typed(text: str, name: str, rng: random.Random, held_out: bool) -> str:
    """The question as people type it: now and then carelessly, and with an opening or a closing."""
    kind = rng.random()
    if kind < 0.07:
        text = text.lower()
    elif kind < 0.11:
        text = text.replace(name, name.lower())
    elif kind < 0.13:
        text = text.upper()
    if rng.random() < 0.10 and text[-1] in "?.":
        text = text[:-1]
    if rng.random() < 0.20:
        text = f"{rng.choice(phrases('openings').of(held_out))} {text}"
    if rng.random() < 0.10:
        text = f"{text} {rng.choice(phrases('closings').of(held_out))}"
    return text
