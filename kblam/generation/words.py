"""The words of the triples that an answer is made from, as they were then: others may change the file meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kblam.errors import StoreError
from kblam.generation.kinds import can_answer
from kblam.knowledge import Triple
from kblam.models.judging import MOST_OF_NAME, Candidate, Judge, Judged
from kblam.models.resident import ResidentKnowledge


@dataclass(frozen=True)
class Found:
    """A triple that got attention.

    Args:
        place: its knowledge token, the m of [0, M).
        triple: what it says.
        mass: the attention it got, of 0 .. 1.
        confidence: the probability that it is the one that answers the question, where that was judged.
        asks_everything: whether the question is about its entity as a whole.
        is_named: whether the question says its name and means it; where that was not judged, its words tell.
    """

    place: int
    triple: Triple
    mass: float
    confidence: float | None = None
    asks_everything: bool = False
    is_named: bool | None = None


class Words:
    """Triples by their place in a device copy, each read once, for one batch of answers.

    Args:
        resident: the copy that is attended to.
        copied: whether the answer's words are those read here (a pointer copies them). Else they come from the copy,
            and a triple that has other words by now is left out.
    """

    def __init__(self, resident: ResidentKnowledge, *, copied: bool = False) -> None:
        self.resident, self._copied = resident, copied
        self._read: dict[int, Triple | None] = {}

    def found(self, best: Sequence[tuple[int, float]]) -> list[Found]:
        """The triples at (place, mass), in that order.

        Left out are those that another process removed or changed before they were first asked for here, and places
        that got no attention at all, such as the unused rows of an over-allocated copy.
        """
        wanted = [(place, mass) for place, mass in best if mass > 0]
        new = [place for place, _ in wanted if place not in self._read]
        if new:
            stale = frozenset() if self._copied else self.resident.stale_places()
            self._copied = False  # only what is read at the prompt's end is copied from
            self._read |= {place: None if place in stale else self._triple(place) for place in new}
        return [Found(place, triple, mass) for place, mass in wanted if (triple := self._read[place]) is not None]

    def of_evidence(self, best: Sequence[tuple[int, float]]) -> list[tuple[Found, bool]]:
        """`found`, without what is gone by now; and whether the knowledge base says something else now."""
        found = self.found(best)
        if not self.resident.is_behind:
            return [(one, False) for one in found]
        now = [(one, self._triple(one.place)) for one in found]
        return [(one, triple != one.triple) for one, triple in now if triple is not None]

    def _triple(self, place: int) -> Triple | None:
        try:
            return self.resident.triples_at([place])[0]
        except StoreError as error:
            if type(error) is not StoreError:  # damaged or locked, not removed
                raise
            return None


def named_places(judge: Judge | None, questions: Sequence[str], resident: ResidentKnowledge) -> Tensor | None:
    """The knowledge tokens of the names that each question says, for an `EvidenceRecorder`.

    Returns:
        int64 (questions, S) on the device, -1 where a question has fewer; None without a judge, or where none says one.
    """
    if judge is None:
        return None
    named = [
        list(dict.fromkeys(resident.places_named(judge.names_meant(one), most=MOST_OF_NAME)))[:MOST_OF_NAME]
        for one in questions
    ]
    if not any(named):
        return None
    width = max(map(len, named))
    return torch.tensor([[*one, *[-1] * (width - len(one))] for one in named], device=resident.device)


def judged(
    judge: Judge | None, questions: Sequence[str | None], found: Sequence[Sequence[Found]]
) -> list[tuple[Found, ...]]:
    """What each question found, the likeliest answer first, each with its confidence, where that can be told."""
    every = [tuple(each) for each in found]
    if judge is None:
        return every
    asked = [row for row, (text, each) in enumerate(zip(questions, every, strict=True)) if text is not None and each]
    cases = [
        Judged(
            str(questions[row]),
            [Candidate(one.triple.name, one.triple.property, one.mass) for one in every[row]],
        )
        for row in asked
    ]
    for row, verdict in zip(asked, judge.verdicts(cases), strict=True):
        told = [
            replace(one, confidence=confidence, asks_everything=everything, is_named=named)
            for one, confidence, everything, named in zip(every[row], *verdict, strict=True)
        ]
        told = [one if _fits(str(questions[row]), one) else replace(one, confidence=0.0) for one in told]
        told.sort(key=lambda one: -(one.confidence or 0.0))
        every[row] = tuple(told)
    return every


def _fits(question: str, one: Found) -> bool:
    return can_answer(question, one.triple.property, one.triple.value, one.triple.name)
