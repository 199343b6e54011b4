"""A whole evaluation: each row as it becomes ready, and how long all will take.

Every knowledge base is built once: while that of a row is there, everything that needs it is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kblam.data.drawing import base_quiz
from kblam.data.quiz import NO_ENTITY, NO_PROPERTY, PAIR, SINGLE, Question, Quiz
from kblam.evaluation.baselines import run_baseline
from kblam.evaluation.bases import Bases
from kblam.evaluation.estimate import GENERAL, Clock, Pace, Told, compared, estimate
from kblam.evaluation.figures import Outcome, score
from kblam.evaluation.force import attached
from kblam.evaluation.general import measure_general
from kblam.evaluation.heat import draw, heat_of
from kblam.evaluation.layers import evidence_by_layer
from kblam.evaluation.loop import RememberingEncoder, Subject, answer_quiz, time_questions, triples_of
from kblam.evaluation.machine import PeakMemory
from kblam.evaluation.plan import Material, Plan, Row, drawn_row, irrelevant_row, rows_of
from kblam.evaluation.report import Report
from kblam.knowledge import KnowledgeBase
from kblam.knowledge.encoders import Progress

# Of a row's first base, so many questions show where each layer looks.
LAYER_QUESTIONS = 32
PACE_QUESTIONS = 16
OURS = "kblam"


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
        cache: folder in which knowledge bases are kept, see `Bases`.
        quick: ask each question once (see `answer_quiz`), and do not look at the layers one by one.
        told: of progress.
        noted: told a line for each row that is done.
        searching: encoder of the RAG baseline; None is the adapter's.
        instruction: of the RAG baseline, see `nearest`.
    """

    subject: Subject
    encoder: RememberingEncoder
    plan: Plan
    material: Material
    report: Report
    png: Path | None = None
    cache: Path | None = None
    quick: bool = False
    told: Told = lambda title, share, left: None
    noted: Callable[[str], None] = lambda line: None
    searching: RememberingEncoder | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        self.rows = rows_of(self.plan, self.material)

    def estimate(self, pace: Pace) -> dict[str, float]:
        """The steps of `run` and about how many seconds each takes."""
        general = len(self.material.general()) if self.plan.general else 0
        return estimate(self.plan, self.rows, general, pace)

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
            few = replace(quiz, questions=quiz.questions[:2])
            answer_quiz(self.subject, knowledge_base, few, quick=self.quick)  # whatever is made once
            began = time.perf_counter()
            answer_quiz(self.subject, knowledge_base, quiz, quick=self.quick)
            return Pace((time.perf_counter() - began) / PACE_QUESTIONS, text)

    def run(self, pace: Pace) -> Report:
        """Every row with its baselines, its picture and the general questions; the report has each as soon as it is
        there.
        """
        clock = Clock(self.estimate(pace), self.told)
        drawn = drawn_row(self.rows) if self.png is not None else None
        irrelevant = irrelevant_row(self.rows) if self.plan.general else None
        for row in self.rows:
            clock.begin(row.title)
            quizzes = row.quizzes()
            # Vectors of the user's own base are in its file.
            bases = Bases(self.encoder, None if row.place[0] == "kb" else self.cache)
            bases.encode(quizzes, _watched(clock))
            with bases.open(quizzes[0], _watched(clock)) as first:
                outcomes, costs = self._answers(bases, quizzes, first, clock)
                asked = [question for quiz in quizzes for question in quiz.questions]
                figures = score(asked, outcomes).to_dict() | costs | ({"note": row.note} if row.note else {})
                self.report.add(*row.place, figures=figures)
                self.noted(f"{row.title}: {_line(figures)}")
                clock.end()
                if self.plan.baselines_of(row):
                    self._baselines(row, bases, quizzes, outcomes, costs, clock)
                if row is drawn and self.png is not None:
                    self._draw(first, quizzes[0].questions, self.png)
                if row is irrelevant:
                    self._general(first, clock)
        return self.report

    def _answers(
        self, bases: Bases, quizzes: Sequence[Quiz], first: KnowledgeBase, clock: Clock
    ) -> tuple[list[Outcome], dict[str, Any]]:
        """What is answered, and what it costs; times and layers are those of the first base."""
        memory = PeakMemory(self.subject.model.device)
        number = sum(len(quiz.questions) for quiz in quizzes)

        def answers(knowledge_base: KnowledgeBase, quiz: Quiz) -> list[Outcome]:
            def told(more: int) -> None:
                clock.within(more / number)

            return answer_quiz(self.subject, knowledge_base, quiz, asked=told, quick=self.quick)

        questions = quizzes[0].questions
        outcomes = answers(first, quizzes[0])
        if not self.quick:
            texts = [question.text for question in questions[:LAYER_QUESTIONS]]
            layers = evidence_by_layer(self.subject, first, texts)
            outcomes[: len(layers)] = [
                replace(outcome, by_layer=seen) for outcome, seen in zip(outcomes, layers, strict=False)
            ]
        costs = {"triples": len(quizzes[0].facts)} | time_questions(self.subject, first, questions).to_dict()
        for quiz in quizzes[1:]:
            with bases.open(quiz, _watched(clock)) as knowledge_base:
                outcomes += answers(knowledge_base, quiz)
        if (peak := memory.mib()) is not None:
            costs["peak_mib"] = round(peak)
        return outcomes, costs

    def _baselines(
        self,
        row: Row,
        bases: Bases,
        quizzes: Sequence[Quiz],
        outcomes: Sequence[Outcome],
        costs: dict[str, Any],
        clock: Clock,
    ) -> None:
        """The same questions to the same model, as many as the plan says; and our own figures on just these."""
        few = _first(quizzes, self.plan.baseline_questions)
        if "rag" in self.plan.baselines_of(row) and self.searching is None:
            bases.recall(few)
        questions = [question for quiz in few for question in quiz.questions]
        number = len(questions)
        own = score(questions, outcomes[:number]).to_dict() | costs
        self.report.add("baselines", OURS, row.place[-1], figures=own)
        refusal = attached(self.subject.model).config.refusal
        for name in self.plan.baselines_of(row):
            clock.begin(compared(row, name))
            found = run_baseline(
                name,
                self.subject,
                self.searching or self.encoder,
                few,
                refusal=refusal,
                instruction=self.instruction,
                asked=lambda more: clock.within(more / number),
            )
            self.report.add("baselines", name, row.place[-1], figures=found.to_dict())
            self.noted(f"{compared(row, name)}: {found.reason or _line(found.to_dict())}")
            clock.end()

    def _draw(self, knowledge_base: KnowledgeBase, questions: Sequence[Question], png: Path) -> None:
        """One question of each kind, of those that the knowledge base was asked."""
        kinds = (SINGLE, PAIR, NO_PROPERTY, NO_ENTITY)
        chosen = [next((question for question in questions if question.kind == kind), None) for kind in kinds]
        heats = [
            heat_of(self.subject, knowledge_base, q.text, asked=[(name, prop) for name, prop, _ in q.facts])
            for q in chosen
            if q is not None
        ]
        draw(heats, png)

    def _general(self, knowledge_base: KnowledgeBase, clock: Clock) -> None:
        clock.begin(GENERAL)
        questions = self.material.general()
        found = measure_general(
            self.subject, knowledge_base, questions, asked=lambda more: clock.within(more / len(questions))
        )
        self.report.add("general", figures=found.to_dict())
        self.noted(f"{GENERAL}: {found.equal.hits} of {found.equal.of} answers as without knowledge")
        clock.end()


def _watched(clock: Clock) -> Progress:
    """Tells the time that passes while texts are encoded."""
    return lambda done, total: clock.within(0)


def _first(quizzes: Sequence[Quiz], questions: int) -> list[Quiz]:
    """The first so many questions of all, each still over the facts of its own quiz."""
    few: list[Quiz] = []
    for quiz in quizzes:
        left = questions - sum(len(part.questions) for part in few)
        if left > 0:
            few.append(replace(quiz, questions=quiz.questions[:left]))
    return few


def _line(figures: dict[str, Any]) -> str:
    shown = {"exact": "exact", "value": "value", "top1": "top-1", "refusal_f1": "refusal F1"}
    return ", ".join(f"{title} {figures[name]:.3f}" for name, title in shown.items() if name in figures)
