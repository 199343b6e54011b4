"""What an evaluation consists of: its rows, what they ask, and which of them show more than figures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from kblam.adapter.sentences import Fact
from kblam.counts import count_of
from kblam.data.drawing import Style, base_quiz, parts_of, world_quizzes
from kblam.data.entities import Entity
from kblam.data.quiz import Keys, Quiz

# The size of the row in words that training never saw; the row that is drawn has at least so many.
UNSEEN_TRIPLES = 1_000
# Of a larger real base only so many triples, of entities drawn by the seed.
REAL_TRIPLES = 5_000
OWN_NOTE = (
    "asked in phrasings of training. An adapter that was trained or calibrated on this base has seen its names, "
    "properties and values: the figures then say how well it learned them, not what it makes of a base it never saw."
)
# Baselines read long prompts: by default they get so many of a row's questions.
BASELINE_QUESTIONS = 50
OWN = "own"  # the user's base, in the drawing


@dataclass(frozen=True)
class Material:
    """What is asked, as functions so that nothing is built that no row needs.

    Args:
        entities: those of the world that training never saw.
        others: further entities with so many facts together.
        style: of the questions, for (held_out, name of a real base or None).
        real: the facts of a real base by its name.
        general: questions that have nothing to do with any base.
    """

    entities: Callable[[], Sequence[Entity]]
    others: Callable[[int], Sequence[Entity]]
    style: Callable[[bool, str | None], Style]
    real: Callable[[str], Sequence[Fact]]
    general: Callable[[], Sequence[str]]


@dataclass(frozen=True)
class Plan:
    """Which rows.

    Args:
        sizes: knowledge bases of the world, in triples.
        unseen: one more of 1,000 triples, asked in words that training never saw.
        real: names of real bases.
        own: facts of the user's own base; None for no such row.
        own_keys: its key texts, as `Quiz` has them.
        baselines: which.
        compared: keys of the rows that they are asked about; None for all.
        general: ask general questions with the largest base of the world attached.
        questions: a row.
        seed: of the drawing.
        baseline_questions: the first so many of each row.
    """

    sizes: tuple[int, ...] = ()
    unseen: bool = False
    real: tuple[str, ...] = ()
    own: tuple[Fact, ...] | None = None
    own_keys: Keys = field(default_factory=dict)
    baselines: tuple[str, ...] = ()
    compared: tuple[str, ...] | None = None
    general: bool = False
    questions: int = 200
    seed: int = 0
    baseline_questions: int = BASELINE_QUESTIONS

    def baselines_of(self, row: Row) -> tuple[str, ...]:
        """The baselines that a row is compared with."""
        return self.baselines if self.compared is None or row.place[-1] in self.compared else ()


@dataclass(frozen=True)
class Row:
    """One row of the report.

    Args:
        place: section and keys in the report.
        title: for progress.
        quizzes: builds what is asked.
        triples: of a knowledge base, about.
        note: what a reader of its figures must know; empty for none.
    """

    place: tuple[str, ...]
    title: str
    quizzes: Callable[[], list[Quiz]]
    triples: int
    note: str = ""

    def parts(self, questions: int) -> int:
        """How many knowledge bases it has."""
        return 1 if self.place[0] in ("real", "kb") else parts_of(self.triples, questions)

    @property
    def is_world(self) -> bool:
        """Whether its knowledge base is of the invented world."""
        return self.place[0] in ("sizes", "unseen")


def rows_of(plan: Plan, material: Material) -> list[Row]:
    """The rows of a plan, in the order of the report."""
    asked = {"questions": plan.questions, "seed": plan.seed}

    def world(size: int, held_out: bool) -> Callable[[], list[Quiz]]:
        return lambda: world_quizzes(
            material.entities(), size, material.style(held_out, None), others=material.others, **asked
        )

    def base(
        name: str | None, facts: Callable[[], Sequence[Fact]], most: int | None, keys: Keys = MappingProxyType({})
    ) -> Callable[[], list[Quiz]]:
        def quizzes() -> list[Quiz]:
            quiz = base_quiz(facts(), material.style(False, name), name=name or OWN, most=most, **asked)
            return [replace(quiz, keys=keys)]

        return quizzes

    rows = [Row(("sizes", str(size)), count_of(size), world(size, False), size) for size in plan.sizes]
    if plan.unseen:
        rows.append(Row(("unseen",), "unseen words", world(UNSEEN_TRIPLES, True), UNSEEN_TRIPLES))
    if plan.own is not None:
        own = plan.own
        quizzes = base(None, lambda: own, None, plan.own_keys)
        rows.append(Row(("kb",), "your triples", quizzes, len(own), OWN_NOTE))
    for name in plan.real:
        facts = functools.partial(material.real, name)
        rows.append(Row(("real", name), name, base(name, facts, REAL_TRIPLES), REAL_TRIPLES))
    return rows


def drawn_row(rows: Sequence[Row]) -> Row | None:
    """The row whose attention is drawn: the first with as many triples as `unseen` has, else the largest."""
    large = (row for row in rows if row.triples >= UNSEEN_TRIPLES)
    return next(large, max(rows, key=lambda row: row.triples, default=None))


def irrelevant_row(rows: Sequence[Row]) -> Row | None:
    """The row whose base is attached while general questions are asked: the largest of the world, if there is one."""
    return max(rows, key=lambda row: (row.is_world, row.triples), default=None)
