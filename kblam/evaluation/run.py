"""A whole evaluation: which rows, how long they will take, and each row as it becomes ready.

With SmolLM2-135M-Instruct in bfloat16, an untrained adapter of four layers and one thread of a shared two-core machine,
32 questions in one batch took 13 s over 1,000 triples and 19 s over 10,000 (32 new tokens each; an AMD EPYC); in
float32 26 to 37 s. A row of 200 questions is thus about 90 to 120 s there, and encoding 10,000 triples another 47 s,
once. The command measures the machine it runs on and says its own estimate first.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kblam.data.drawing import Style, base_quiz, parts_of, world_quizzes
from kblam.data.entities import Entity
from kblam.data.quiz import NO_ENTITY, NO_PROPERTY, PAIR, SINGLE, Fact, Quiz
from kblam.evaluation.baselines import run_baseline
from kblam.evaluation.figures import Outcome, score
from kblam.evaluation.general import measure_general
from kblam.evaluation.heat import draw, heat_of
from kblam.evaluation.layers import evidence_by_layer
from kblam.evaluation.loop import TIMED, RememberingEncoder, Subject, answer_quiz, time_questions, triples_of
from kblam.evaluation.machine import PeakMemory
from kblam.evaluation.report import Report
from kblam.knowledge import KnowledgeBase
from kblam.models import attachment_of

# The size of the row in words that training never saw, of the irrelevant base, and of the one that is drawn.
UNSEEN_TRIPLES = 1_000
# Of a larger real base only so many triples, of entities drawn by the seed.
REAL_TRIPLES = 5_000
# Baselines read long prompts: by default they get so many of a row's questions.
BASELINE_QUESTIONS = 50
# Of a row's first base, so many questions show where each layer looks.
LAYER_QUESTIONS = 32
OURS = "kblam"
GENERAL = "general questions"

# For the estimate, measured with SmolLM2-135M on one core: a token takes twice as long with so many triples, a question
# asked alone as long as so many in a batch, a baseline's question as long as so many of ours.
SLOWED_AT = 25_000
ALONE = 6
SLOWER_WITH_PROMPT = {"rag": 3.0, "in-context": 12.0, "zero-shot": 1.5}
FITS_INTO_CONTEXT = 400
PACE_QUESTIONS = 16


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
        baselines: which, for every size, real base and own base up to `baseline_triples`.
        general: ask general questions with the largest base of the world attached.
        questions: a row.
        seed: of the drawing.
        baseline_questions: the first so many of each row.
    """

    sizes: tuple[int, ...] = ()
    unseen: bool = False
    real: tuple[str, ...] = ()
    own: tuple[Fact, ...] | None = None
    baselines: tuple[str, ...] = ()
    general: bool = False
    questions: int = 200
    seed: int = 0
    baseline_questions: int = BASELINE_QUESTIONS


@dataclass(frozen=True)
class Row:
    """One row of the report.

    Args:
        place: section and keys in the report.
        title: for progress.
        quizzes: builds what is asked.
        triples: of a knowledge base, about.
    """

    place: tuple[str, ...]
    title: str
    quizzes: Callable[[], list[Quiz]]
    triples: int

    def parts(self, questions: int) -> int:
        """How many knowledge bases it has."""
        return 1 if self.place[0] in ("real", "kb") else parts_of(self.triples, questions)


@dataclass(frozen=True)
class Pace:
    """How fast this machine is with this model, measured on a few questions before anything starts.

    Args:
        question: seconds for a question in a batch, over a small knowledge base.
        text: seconds to encode one text.
    """

    question: float
    text: float


# Told often: what is being done, the share of everything that is done, and the seconds that are left, as far as both
# can be told.
Told = Callable[[str, float, float], None]


@dataclass
class Evaluation:
    """One run of a plan.

    Args:
        subject: model with its adapter attached, and tokenizer.
        encoder: of the adapter.
        plan: which rows.
        material: what is asked.
        report: rows go here as they become ready.
        png: a picture of the attention goes here.
        told: of progress.
        noted: told a line for each row that is done.
    """

    subject: Subject
    encoder: RememberingEncoder
    plan: Plan
    material: Material
    report: Report
    png: Path | None = None
    told: Told = lambda title, share, left: None
    noted: Callable[[str], None] = lambda line: None

    def rows(self) -> list[Row]:
        """The rows of the plan, in the order of the report."""
        plan, material = self.plan, self.material
        asked = {"questions": plan.questions, "seed": plan.seed}

        def world(size: int, held_out: bool) -> Callable[[], list[Quiz]]:
            return lambda: world_quizzes(
                material.entities(), size, material.style(held_out, None), others=material.others, **asked
            )

        def base(name: str | None, facts: Callable[[], Sequence[Fact]], most: int | None) -> Callable[[], list[Quiz]]:
            return lambda: [base_quiz(facts(), material.style(False, name), name=name or "own", most=most, **asked)]

        rows = [Row(("sizes", str(size)), f"{size:,} triples", world(size, False), size) for size in plan.sizes]
        if plan.unseen:
            rows.append(Row(("unseen",), "unseen words", world(UNSEEN_TRIPLES, True), UNSEEN_TRIPLES))
        if plan.own is not None:
            own = plan.own
            rows.append(Row(("kb",), "your triples", base(None, lambda: own, None), len(own)))
        for name in plan.real:
            facts = functools.partial(material.real, name)
            rows.append(Row(("real", name), name, base(name, facts, REAL_TRIPLES), REAL_TRIPLES))
        return rows

    def estimate(self, pace: Pace) -> dict[str, float]:
        """The steps of `run` and about how many seconds each takes."""
        plan, steps = self.plan, dict[str, float]()
        alone = (TIMED + 1) * ALONE * pace.question
        for row in self.rows():
            parts = row.parts(plan.questions)
            steps[row.title] = 2 * row.triples * parts * pace.text  # each key and value
            steps[row.title] += plan.questions * pace.question * (1 + row.triples / SLOWED_AT) + alone
            asked = min(plan.questions // parts, plan.baseline_questions)
            for name in plan.baselines:
                one = pace.question * SLOWER_WITH_PROMPT[name]
                if name != "in-context" or row.triples <= FITS_INTO_CONTEXT:
                    steps[f"{row.title}, {name}"] = asked * one + (TIMED + 1) * ALONE * one
        if plan.general:
            steps[GENERAL] = len(self.material.general()) * 2 * pace.question
        return steps

    def pace(self) -> Pace:
        """Measures a few questions, which takes a few seconds itself."""
        style = self.material.style(False, None)
        facts = [(f"Thing {number}", "colour", f"shade {number} of grey") for number in range(32)]
        quiz = base_quiz(facts, style, questions=PACE_QUESTIONS, name="pace")
        texts = [text for triple in triples_of(quiz) for text in (triple.key_text, triple.value_text)]
        self.encoder.encode(texts[:2])  # loads the encoder
        began = time.perf_counter()
        with KnowledgeBase.from_triples(triples_of(quiz), self.encoder) as knowledge_base:
            text = (time.perf_counter() - began) / len(texts)
            began = time.perf_counter()
            answer_quiz(self.subject, knowledge_base, quiz)
            return Pace((time.perf_counter() - began) / PACE_QUESTIONS, text)

    def run(self, pace: Pace) -> Report:
        """Every row, then the general questions; the report has each as soon as it is there."""
        clock = _Clock(self.estimate(pace), self.told)
        drawn = False
        rows = self.rows()
        for row in rows:
            clock.begin(row.title)
            quizzes = row.quizzes()
            outcomes, costs = self._answers(quizzes, clock)
            asked = [question for quiz in quizzes for question in quiz.questions]
            figures = score(asked, outcomes).to_dict() | costs
            self.report.add(*row.place, figures=figures)
            self.noted(f"{row.title}: {_line(figures)}")
            clock.end()
            if self.plan.baselines:
                self._baselines(row, quizzes[0], outcomes, costs, clock)
            if self.png is not None and not drawn and row.triples >= min(UNSEEN_TRIPLES, *(r.triples for r in rows)):
                self._draw(quizzes[0], self.png)
                drawn = True
        if self.plan.general:
            clock.begin(GENERAL)
            self._general(clock)
            clock.end()
        return self.report

    def _answers(self, quizzes: Sequence[Quiz], clock: _Clock) -> tuple[list[Outcome], dict[str, Any]]:
        """What is answered, and what it costs."""
        self._encode(quizzes, clock)
        outcomes: list[Outcome] = []
        costs: dict[str, Any] = {}
        memory = PeakMemory(self.subject.model.device)
        number = sum(len(quiz.questions) for quiz in quizzes)
        for quiz in quizzes:
            with self._knowledge_base(quiz) as knowledge_base:
                answers = answer_quiz(
                    self.subject, knowledge_base, quiz, asked=lambda more: clock.within(more / number)
                )
                if not costs:
                    times = time_questions(self.subject, knowledge_base, quiz.questions)
                    costs = {"triples": len(quiz.facts)} | times.to_dict()
                    texts = [question.text for question in quiz.questions[:LAYER_QUESTIONS]]
                    layers = evidence_by_layer(self.subject, knowledge_base, texts)
                    answers[: len(layers)] = [
                        replace(answer, by_layer=seen) for answer, seen in zip(answers, layers, strict=False)
                    ]
                outcomes += answers
        if (peak := memory.mib()) is not None:
            costs["peak_mib"] = round(peak)
        return outcomes, costs

    def _encode(self, quizzes: Sequence[Quiz], clock: _Clock) -> None:
        """All texts at once, which is quicker than base by base and can be watched."""
        triples = [triple for quiz in quizzes for triple in triples_of(quiz)]
        texts = dict.fromkeys(text for triple in triples for text in (triple.key_text, triple.value_text))
        self.encoder.encode(list(texts), progress=lambda done, total: clock.within(0))

    def _baselines(
        self, row: Row, quiz: Quiz, outcomes: Sequence[Outcome], costs: dict[str, Any], clock: _Clock
    ) -> None:
        """The same questions to the same model, as many as the plan says; and our own figures on just these."""
        few = Quiz(quiz.facts, quiz.questions[: self.plan.baseline_questions])
        own = score(few.questions, outcomes[: len(few.questions)]).to_dict() | costs
        self.report.add("baselines", OURS, row.place[-1], figures=own)
        attachment = attachment_of(self.subject.model)
        assert attachment is not None
        for name in self.plan.baselines:
            clock.begin(f"{row.title}, {name}")
            number = len(few.questions)
            found = run_baseline(
                name,
                self.subject,
                self.encoder,
                few,
                refusal=attachment.config.refusal,
                asked=lambda more: clock.within(more / number),  # noqa: B023 - called before the next one
            )
            self.report.add("baselines", name, row.place[-1], figures=found.to_dict())
            self.noted(f"{row.title}, {name}: {found.reason or _line(found.to_dict())}")
            clock.end()

    def _draw(self, quiz: Quiz, png: Path) -> None:
        """One question of each kind."""
        kinds = (SINGLE, PAIR, NO_PROPERTY, NO_ENTITY)
        chosen = [next((q for q in quiz.questions if q.kind == kind), None) for kind in kinds]
        with self._knowledge_base(quiz) as knowledge_base:
            heats = [
                heat_of(self.subject, knowledge_base, q.text, asked=[(name, prop) for name, prop, _ in q.facts])
                for q in chosen
                if q is not None
            ]
        draw(heats, png)

    def _general(self, clock: _Clock) -> None:
        questions = self.material.general()
        rows = [row for row in self.rows() if row.place[0] in ("sizes", "unseen")] or self.rows()
        quiz = max(rows, key=lambda row: row.triples).quizzes()[0]
        with self._knowledge_base(quiz) as knowledge_base:
            found = measure_general(
                self.subject, knowledge_base, questions, asked=lambda more: clock.within(more / len(questions))
            )
        self.report.add("general", figures=found.to_dict())
        self.noted(f"{GENERAL}: {found.equal.hits} of {found.equal.of} answers as without knowledge")

    def _knowledge_base(self, quiz: Quiz) -> KnowledgeBase:
        return KnowledgeBase.from_triples(triples_of(quiz), self.encoder)


def _line(figures: dict[str, Any]) -> str:
    shown = {"exact": "exact", "value": "value", "top1": "top-1", "refusal_f1": "refusal F1"}
    return ", ".join(f"{title} {figures[name]:.3f}" for name, title in shown.items() if name in figures)


class _Clock:
    """Tells what is left, from the estimate and from how right it was so far."""

    def __init__(self, steps: dict[str, float], told: Told) -> None:
        self._left, self._told = dict(steps), told
        self._done = 0.0
        self._began = time.perf_counter()
        self._title, self._share = "", 0.0

    def begin(self, title: str) -> None:
        self._title, self._share = title, 0.0
        self._tell()

    def within(self, share: float) -> None:
        """More of the current step is done."""
        self._share = min(1.0, self._share + share)
        self._tell()

    def end(self) -> None:
        self._done += self._left.pop(self._title, 0.0)
        self._title = ""

    def _tell(self) -> None:
        current = self._left.get(self._title, 0.0) * self._share
        done, left = self._done + current, sum(self._left.values()) - current
        elapsed = time.perf_counter() - self._began
        # The estimate counts as ten seconds of experience, so that the first batch does not decide alone.
        self._told(self._title, done / (done + left) if done + left else 1.0, left * (elapsed + 10) / (done + 10))
