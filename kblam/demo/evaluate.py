"""Evaluate the demo model on held-out entities and values: `python -m kblam.demo.evaluate`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from kblam.demo.assets import ASSETS, Demo, load
from kblam.demo.benchmark import Figures, Outcome, Quiz, build_quiz, score
from kblam.demo.tokenizer import real_words
from kblam.demo.world import FACTS_PER_ENTITY, Entity, World, build_world
from kblam.generation import ask_many
from kblam.knowledge import Encoder, KnowledgeBase, Triple, load_encoder
from kblam.knowledge.encoders import Progress

SIZES = (100, 1000, 10_000)
MAX_NEW_TOKENS = 80


class RememberingEncoder:
    """An encoder that encodes each text once: the benchmark's knowledge bases hold the same facts."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: dict[str, np.ndarray] = {}

    @property
    def spec(self) -> str:
        return self._encoder.spec

    @property
    def fingerprint(self) -> str:
        return self._encoder.fingerprint

    @property
    def dimension(self) -> int:
        return self._encoder.dimension

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> np.ndarray:
        """As `Encoder.encode`."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._encoder.encode(new, progress=progress), strict=True))
        return np.stack([self._known[text] for text in texts])


def triples_of(quiz: Quiz) -> list[Triple]:
    """The facts of a quiz as triples."""
    return [Triple(*fact) for fact in quiz.facts]


def answer_quiz(demo: Demo, knowledge_base: KnowledgeBase, quiz: Quiz) -> list[Outcome]:
    """What the demo model says to every question of a quiz."""
    answers = ask_many(
        demo.model,
        knowledge_base,
        [question.text for question in quiz.questions],
        tokenizer=demo.tokenizer,
        top=1,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    outcomes = []
    for answer in answers:
        triple = answer.evidence[0].triple if answer.evidence else None
        best = None if triple is None else (triple.name, triple.property, triple.value)
        outcomes.append(Outcome(answer.text, best, answer.refused))
    return outcomes


def quizzes(world: World, triples: int, questions: int, *, unseen_phrasing: bool = False) -> list[Quiz]:
    """One quiz; over small knowledge bases several, of other entities each, so that the questions differ."""
    entities = world.test_grid
    parts = 4 if triples < 400 else 1
    per_part = triples // FACTS_PER_ENTITY + 1 + questions // 8
    return [
        build_quiz(
            entities[part * per_part :],
            triples,
            questions=questions // parts,
            seed=part,
            unseen_phrasing=unseen_phrasing,
        )
        for part in range(parts)
    ]


def measure(demo: Demo, encoder: Encoder, parts: Sequence[Quiz]) -> Figures:
    """The figures of all parts together."""
    outcomes: list[Outcome] = []
    for quiz in parts:
        with KnowledgeBase.from_triples(triples_of(quiz), encoder) as knowledge_base:
            outcomes += answer_quiz(demo, knowledge_base, quiz)
    return score([question for quiz in parts for question in quiz.questions], outcomes)


def figures_table(rows: dict[str, Figures], title: str) -> Table:
    """The figures as a rich table, one line a row."""
    table = Table(title=title)
    table.add_column("knowledge base")
    for column in ("exact answer", "of one fact", "of two", "top-1 evidence", "refusal precision", "recall", "F1"):
        table.add_column(column, justify="right")
    for name, f in rows.items():
        values = (f.exact, f.exact_single, f.exact_pair, f.top1, f.refusal_precision, f.refusal_recall, f.refusal_f1)
        table.add_row(name, *(f"{value:.3f}" for value in values))
    return table


def evaluate(
    demo: Demo, encoder: Encoder, questions: int, report: Callable[[str, Figures], None]
) -> dict[str, Figures]:
    """All rows of the card: the three sizes, phrasings training never saw, names of unseen words."""
    world = build_world(real_words())
    remembering = RememberingEncoder(encoder)
    rows: dict[str, Figures] = {}

    def add(name: str, parts: list[Quiz]) -> None:
        rows[name] = measure(demo, remembering, parts)
        report(name, rows[name])

    for size in SIZES:
        add(f"{size} triples", quizzes(world, size, questions))
    add("1000 triples, unseen phrasing", quizzes(world, 1000, questions, unseen_phrasing=True))
    for size in (1000, 10_000):
        asked = _some(world.test_open, size)
        quiz = build_quiz(asked, size, questions=questions, others=world.test_grid)
        add(f"{size} triples, unseen words", [quiz])
    return rows


def write_metrics(folder: Path, rows: dict[str, Figures]) -> None:
    """Writes `folder/metrics.json`: row name to figures."""
    text = json.dumps({name: figures.to_dict() for name, figures in rows.items()}, indent=2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")


def _some(entities: list[Entity], triples: int) -> list[Entity]:
    """Open entities for a knowledge base: all, or for a small one as many as fill half of it."""
    return entities[: triples // FACTS_PER_ENTITY // 2 + 25]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=200, help="for each row")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder of the model")
    parser.add_argument("--output", type=Path, help="folder for metrics.json")
    arguments = parser.parse_args()
    console = Console()
    rows = evaluate(
        load(arguments.assets),
        load_encoder("minilm"),
        arguments.questions,
        lambda name, figures: console.print(f"{name}: exact {figures.exact:.3f}", highlight=False),
    )
    console.print(figures_table(rows, f"{arguments.questions} held-out questions a row"))
    if arguments.output:
        write_metrics(arguments.output, rows)


if __name__ == "__main__":
    main()
