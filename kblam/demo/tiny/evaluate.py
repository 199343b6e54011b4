"""Evaluate the demo model on held-out entities and values: `python -m kblam.demo.tiny.evaluate`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from kblam.data.entities import Entity
from kblam.data.quiz import Quiz
from kblam.demo.tiny.assets import ASSETS, Demo, load
from kblam.demo.tiny.quiz import demo_quiz
from kblam.demo.tiny.tables import figures_table, write_metrics
from kblam.demo.tiny.tokenizer import real_words
from kblam.demo.tiny.world import FACTS_PER_ENTITY, World, build_world
from kblam.evaluation.figures import Figures
from kblam.evaluation.loop import RememberingEncoder, measure
from kblam.interrupts import leave
from kblam.knowledge import Encoder, load_encoder

SIZES = (100, 1000, 10_000)


def quizzes(world: World, triples: int, questions: int, *, unseen_phrasing: bool = False) -> list[Quiz]:
    """One quiz; over small knowledge bases several, of other entities each, so that the questions differ."""
    entities = world.test_grid
    parts = min(4, questions) if triples < 400 else 1
    per_part = triples // FACTS_PER_ENTITY + 1 + questions // 8
    return [
        demo_quiz(
            entities[part * per_part :],
            triples,
            questions=questions // parts + (part < questions % parts),
            seed=part,
            unseen_phrasing=unseen_phrasing,
        )
        for part in range(parts)
    ]


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
        quiz = demo_quiz(asked, size, questions=questions, others=world.test_grid)
        add(f"{size} triples, unseen words", [quiz])
    return rows


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
    leave(main)
