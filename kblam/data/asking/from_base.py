"""Questions about a base from templates, without a model: the same ones for the same seed, on every machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kblam.adapter.config import ANSWER, REFUSAL
from kblam.data.asking.sets import DEFAULT_SHARES, KINDS, UNANSWERABLE, Asked
from kblam.data.drawing import Style, questions_about
from kblam.data.open_world import build_world
from kblam.data.quiz import NO_ENTITY, NO_PROPERTY, Question, counts
from kblam.knowledge import Source, Triple
from kblam.knowledge.mention import says
from kblam.knowledge.triples import key_text

__all__ = ["KINDS", "about_base"]

# Drawings until so many questions differ; a small base has no more.
_ROUNDS = 8
_STRANGERS = 200  # invented names that a base does not have
_STRANGERS_SEED = 1


def about_base(
    triples: Iterable[Triple],
    count: int,
    *,
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
    refusal: str = REFUSAL,
    answer: str = ANSWER,
) -> list[Asked]:
    """Questions that differ, about a base that stays whole; fewer where it has no more.

    What cannot be answered asks half of the time for a property that a thing of the base does not have, also not by
    another word, and half of the time for an invented thing.

    Args:
        triples: of the base.
        count: of questions.
        shares: of the kinds, together 1.
        seed: of the drawing.
        refusal: the answer to what the base does not know.
        answer: the sentence about one fact, with {name}, {property} and {value}.

    Raises:
        DataError: the base has fewer than two entities.
    """
    every = list(triples)
    sources = {triple.identity: triple.sources for triple in every}
    facts = [(triple.name, triple.property, triple.value) for triple in every]
    strangers = _strangers({triple.name.casefold() for triple in every})
    wanted = counts(count, shares or DEFAULT_SHARES)
    names = list(dict.fromkeys([*(triple.name for triple in every), *strangers]))
    found: dict[str, dict[str, Asked]] = {kind: {} for kind in wanted}
    for turn in range(_ROUNDS):
        missing = {kind: number - len(found[kind]) for kind, number in wanted.items() if number > len(found[kind])}
        if not missing:
            break
        style = Style(answer, shares=_shares(missing))
        drawn = questions_about(facts, strangers, style, questions=sum(missing.values()), seed=seed + turn * 1_000_003)
        for question in drawn:
            asked = _asked(question, names, sources, refusal)
            if len(found[asked.kind]) < wanted[asked.kind]:
                found[asked.kind].setdefault(asked.question.casefold(), asked)
    return _mixed([list(of_kind.values()) for of_kind in found.values()])


def _shares(missing: Mapping[str, int]) -> dict[str, float]:
    whole = sum(missing.values())
    shares = {kind: number / whole for kind, number in missing.items()}
    none = shares.pop(UNANSWERABLE, 0.0)
    # `counts` wants every kind that is drawn by name.
    every = {"single": 0.0, "pair": 0.0, "open": 0.0, NO_ENTITY: none / 2, NO_PROPERTY: none / 2}
    return {**every, **shares}


def _asked(
    question: Question, names: Sequence[str], sources: Mapping[tuple[str, str], tuple[Source, ...]], refusal: str
) -> Asked:
    if not question.facts:
        return Asked(question.text, refusal, UNANSWERABLE, _named(question.text, names))
    contexts = tuple(f"{key_text(name, prop)} is {value}" for name, prop, value in question.facts)
    where = dict.fromkeys(source for fact in question.facts for source in sources.get(fact[:2], ()))
    about = tuple(dict.fromkeys(name for name, _, _ in question.facts))
    return Asked(question.text, question.answer, question.kind, about, contexts, tuple(where))


def _named(text: str, names: Sequence[str]) -> tuple[str, ...]:
    """The longest name that a question says."""
    lowered = text.casefold()
    said = [name for name in names if name.casefold() in lowered and says(text, name)]
    return (max(said, key=len),) if said else ()


def _strangers(taken: set[str]) -> list[str]:
    world = build_world(_STRANGERS_SEED, 0, _STRANGERS)
    return [entity.name for entity in world.test if entity.name.casefold() not in taken]


def _mixed(kinds: Sequence[Sequence[Asked]]) -> list[Asked]:
    """The questions of all kinds, each kind spread over the whole."""
    placed = [((at + 0.5) / len(of_kind), asked) for of_kind in kinds for at, asked in enumerate(of_kind)]
    return [asked for _, asked in sorted(placed, key=lambda each: each[0])]
