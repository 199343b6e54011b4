"""`python -m kblam.demo.tiny`: a small model answers from a knowledge base it never saw."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from kblam.counts import many
from kblam.data.entities import Entity
from kblam.data.quiz import Quiz
from kblam.demo.filling import fill
from kblam.demo.screen import next_steps, show
from kblam.demo.timing import TokenTimes, backend_in_use, time_tokens
from kblam.demo.tiny.assets import Demo, load
from kblam.demo.tiny.evaluate import SIZES, quizzes
from kblam.demo.tiny.tables import figures_table
from kblam.demo.tiny.tokenizer import real_words
from kblam.demo.tiny.words import PROPERTIES, VALUE_GRAMMAR
from kblam.demo.tiny.world import build_world
from kblam.evaluation.figures import Figures
from kblam.evaluation.loop import RememberingEncoder, measure, triples_of
from kblam.generation import Session, ask
from kblam.interrupts import leave
from kblam.knowledge import Encoder, KnowledgeBase, Triple, load_encoder
from kblam.models import attach
from kblam.whole import why_not, write_whole

REPORT = Path("build/demo-tiny.json")
SHOWN_TRIPLES = 2000
INVENTED = Triple("Zorblax Quellin", "treasure", "stolen map of a dragon")


def show_words(console: Console) -> None:
    """Which words the small model knows: the properties and the word classes of their values."""
    console.print(
        "\nThis small model reads [bold]any[/bold] name. It knows only these properties, and can say only values "
        "made of these words:"
    )
    for prop, (pattern, classes) in VALUE_GRAMMAR.items():
        console.print(f"  [bold]{prop}[/bold]: {pattern.format(*('…' for _ in classes))}", highlight=False)
        for word_class in classes:
            console.print(f"      {word_class}", style="dim", highlight=False)


def conversation(demo: Demo, knowledge_base: KnowledgeBase, entities: Sequence[Entity], console: Console) -> None:
    """Questions about one fact, about two, about none, and about a fact that is added on the way."""
    first, second, third = entities[:3]
    prop, other = next(iter(first.facts)), next(iter(second.facts))
    missing = next(prop for prop in PROPERTIES if prop not in third.facts)
    invented = f"What is the {INVENTED.property} of {INVENTED.name}?"

    def put(question: str) -> None:
        answer = ask(demo.model, knowledge_base, question, tokenizer=demo.tokenizer, top=3, max_new_tokens=80)
        show(console, question, answer)

    put(f"What is the {prop} of {first.name}?")
    put(f"Tell me the {prop} of {first.name} and the {other} of {second.name}.")
    put(f"What is the {missing} of {third.name}?")
    put(invented)
    console.print(f"\nAdding a fact: the {INVENTED.property} of {INVENTED.name} is {INVENTED.value}", style="bold")
    knowledge_base.add(INVENTED)
    put(invented)


def report(path: Path, rows: dict[int, Figures], times: TokenTimes, exact: TokenTimes, backend: str) -> None:
    """Writes the demo's figures as JSON; `exact`: read as `attach` reads unless told, not as int8."""
    content = {
        "sizes": {str(size): figures.to_dict() for size, figures in rows.items()},
        "ms_per_token": times.to_dict(),
        "ms_per_token_exact": exact.to_dict(),
        "backend": backend,
    }
    write_whole(path, json.dumps(content, indent=2) + "\n")


def run(console: Console, questions: int, output: Path, encoder: Encoder | None = None) -> None:
    """The whole demo."""
    demo = load()
    remembering = RememberingEncoder(encoder or load_encoder("minilm"))
    world = build_world(real_words())
    everything = quizzes(world, SIZES[-1], questions)
    console.rule("Questions to a knowledge base that the model never saw")
    shown = [Triple(*fact) for fact in everything[0].facts[:SHOWN_TRIPLES]]
    with KnowledgeBase.create(None, remembering) as knowledge_base:
        fill(knowledge_base, shown, console, label=f"encoding {SHOWN_TRIPLES:,} triples with MiniLM", stays=True)
        conversation(demo, knowledge_base, world.test_grid, console)
    console.print(
        f"\nIt reads any name, and knows {len(PROPERTIES)} properties: `python -m kblam.demo.tiny --words` lists them "
        "and the words of their values.",
        highlight=False,
    )

    console.rule(f"{questions} held-out questions")
    rows: dict[int, Figures] = {}
    with KnowledgeBase.create(None, remembering) as knowledge_base:
        fill(
            knowledge_base,
            triples_of(everything[0]),
            console,
            label=f"encoding {SIZES[-1]:,} triples with MiniLM",
            stays=True,
        )
        for size in SIZES:
            parts: list[Quiz] = everything if size == SIZES[-1] else quizzes(world, size, questions)
            rows[size] = measure(demo, remembering, parts)
        console.print(figures_table({f"{size:,}": figures for size, figures in rows.items()}, ""))
        session, question = Session(demo.model, knowledge_base, tokenizer=demo.tokenizer), everything[0].questions[0]
        times, backend = time_tokens(session, question.text), backend_in_use(session, question.text)
        attach(demo.model, demo.attachment.adapter)
        session = Session(demo.model, knowledge_base, tokenizer=demo.tokenizer)
        exact = time_tokens(session, question.text)
        for label, found in (("as int8", times), ("not rounded", exact)):
            console.print(
                f"one token: {found.without:.2f} ms without knowledge, {found.with_knowledge:.2f} ms with "
                f"{SIZES[-1]:,} triples {label} ({found.with_knowledge / found.without:.2f} times); the first: "
                f"{found.first_without:.1f} and {found.first_with:.1f} ms",
                highlight=False,
            )
        console.print(f"backend {backend}, {many(torch.get_num_threads(), 'thread')}", highlight=False)
    report(output, rows, times, exact, backend)
    console.print(f"wrote {output}", highlight=False)
    next_steps(console)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m kblam.demo.tiny", description=__doc__)
    parser.add_argument("--questions", type=int, default=200, help="held-out questions for each size")
    parser.add_argument("--output", type=Path, default=REPORT)
    parser.add_argument("--words", action="store_true", help="only print the words the small model knows")
    arguments = parser.parse_args()
    if (reason := why_not(arguments.output)) is not None:
        parser.error(f"--output: {reason}")
    # Transformers tells in every batch that no mask was given where none is needed; the demo's output is the story.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    console = Console()
    if arguments.words:
        show_words(console)
    else:
        run(console, arguments.questions, arguments.output)


if __name__ == "__main__":
    leave(main)
