"""How long an evaluation takes: said beforehand from what was measured, and corrected as it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kblam.evaluation.loop import TIMED
from kblam.evaluation.plan import Plan, Row

GENERAL = "general questions"
# Measured with SmolLM2-135M on two cores: a question takes twice as long with so many triples, one asked alone as long
# as so many in a batch, a baseline's question as long as so many of ours, each general one as long as so many.
SLOWED_AT = 25_000
ALONE = 6
SLOWER_WITH_PROMPT = {"rag": 3.0, "in-context": 12.0, "zero-shot": 1.5}
GENERAL_COST = 2
FITS_INTO_CONTEXT = 400

# Told often: what is being done, the share of everything that is done, and the seconds that are left, as far as both
# can be told.
Told = Callable[[str, float, float], None]


@dataclass(frozen=True)
class Pace:
    """How fast this machine is with this model, measured on a few questions before anything starts.

    Args:
        question: seconds for a question in a batch, over a small knowledge base.
        text: seconds to encode one text.
    """

    question: float
    text: float


def estimate(plan: Plan, rows: Sequence[Row], general: int, pace: Pace) -> dict[str, float]:
    """The steps of a run and about how many seconds each takes.

    Args:
        plan, rows: of the run.
        general: how many general questions there are.
        pace: of the machine.
    """
    steps = dict[str, float]()
    alone = (TIMED + 1) * ALONE * pace.question
    for row in rows:
        parts = row.parts(plan.questions)
        # Each key and value; those of the user's own base are in its file.
        steps[row.title] = 0 if row.place[0] == "kb" else 2 * row.triples * parts * pace.text
        steps[row.title] += plan.questions * pace.question * (1 + row.triples / SLOWED_AT) + alone
        asked = min(plan.questions, plan.baseline_questions)
        for name in plan.baselines_of(row):
            one = pace.question * SLOWER_WITH_PROMPT[name]
            if name != "in-context" or row.triples <= FITS_INTO_CONTEXT:
                steps[compared(row, name)] = asked * one + (TIMED + 1) * ALONE * one
    if plan.general:
        steps[GENERAL] = general * GENERAL_COST * pace.question
    return steps


def compared(row: Row, baseline: str) -> str:
    """The title of a baseline's step."""
    return f"{row.title}, {baseline}"


class Clock:
    """Tells what is left, from the estimate and from how right it was so far."""

    def __init__(self, steps: dict[str, float], told: Told) -> None:
        self._left, self._told = dict(steps), told
        self._done = 0.0
        self._began = time.perf_counter()
        self._title, self._share = "", 0.0

    def begin(self, title: str) -> None:
        """A step of the estimate begins."""
        self._title, self._share = title, 0.0
        self._tell()

    def within(self, share: float) -> None:
        """More of the current step is done."""
        self._share = min(1.0, self._share + share)
        self._tell()

    def end(self) -> None:
        """The current step is done."""
        self._done += self._left.pop(self._title, 0.0)
        self._title = ""

    def _tell(self) -> None:
        current = self._left.get(self._title, 0.0) * self._share
        done, left = self._done + current, sum(self._left.values()) - current
        elapsed = time.perf_counter() - self._began
        # The estimate counts as ten seconds of experience, so that the first batch does not decide alone.
        self._told(self._title, done / (done + left) if done + left else 1.0, left * (elapsed + 10) / (done + 10))
