"""SmolLM2 answers from a knowledge base that it never saw."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kblam.adapter import KnowledgeAdapter
from kblam.counts import many
from kblam.data.drawing import world_quizzes
from kblam.demo.facts import Story, story
from kblam.demo.filling import fill
from kblam.demo.screen import WIDTH, figures_of, next_steps, show
from kblam.demo.timing import TokenTimes, backend_in_use, time_tokens
from kblam.errors import AdapterFormatError, KblamError
from kblam.evaluation.figures import Figures
from kblam.evaluation.loop import RememberingEncoder, measure, triples_of
from kblam.evaluation.material import standard_material
from kblam.evaluation.report import check_files
from kblam.generation import Session
from kblam.generation.drawing import SHARE
from kblam.knowledge import KnowledgeBase, load_encoder
from kblam.models import attach
from kblam.models.loading import load_base, load_tokenizer, quiet_libraries
from kblam.models.smollm2 import HUB_NAME
from kblam.shipped import SMOLLM2, SMOLLM2_ADAPTER, smollm2_is_shipped
from kblam.whole import write_whole

REPORT = Path("build/demo.json")
SIZES = (100, 1000, 10_000)
QUESTIONS = 32  # one batch
_ALONE = 24  # tokens of an answer without knowledge: what a line holds


@dataclass(frozen=True)
class Demo:
    """The model, ready to answer.

    Args:
        model: with the adapter attached.
        tokenizer: of the model.
        encoder: of the adapter; remembers what it encoded.
        answer: the adapter's sentence about one fact.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    encoder: RememberingEncoder
    answer: str


def load(folder: Path) -> Demo:
    """SmolLM2 on this machine's quickest device, with an adapter.

    Raises:
        ModelFolderError: the model cannot be had here; the message says which command brings it.
        AdapterFormatError: there is no such adapter.
    """
    adapter = KnowledgeAdapter.from_pretrained(folder)
    tokenizer = load_tokenizer(SMOLLM2)
    model = load_base(SMOLLM2)
    attach(model, adapter)
    return Demo(model, tokenizer, RememberingEncoder(load_encoder("minilm")), adapter.config.answer)


def tell(demo: Demo, told: Story, console: Console) -> None:
    """The questions of the story, and the fact that is added on the way."""
    triples = [*told.invented, *told.elements]
    console.rule(f"[bold]{HUB_NAME.split('/')[1]} and {len(triples):,} triples that it never saw")
    empty = KnowledgeBase.create(None, demo.encoder)
    # It finds nothing, so the plain model answers, as if nothing were attached.
    alone = Session(demo.model, empty, tokenizer=demo.tokenizer, unknown="base", known_above=1.0)
    with empty, KnowledgeBase.create(None, demo.encoder) as knowledge_base:
        seconds = fill(knowledge_base, triples, console, label=f"encoding {len(triples):,} triples")
        console.print(
            f"{len(told.invented):,} invented, {len(told.elements):,} about the chemical elements; MiniLM encoded "
            f"them in {seconds:.0f} s.\nA bar is the {SHARE} that a triple got, beside all others and the question.",
            style="dim",
            highlight=False,
        )
        session = Session(demo.model, knowledge_base, tokenizer=demo.tokenizer)

        def put(question: str) -> None:
            with console.status("answering"):
                answer = session.ask(question, top=3, max_new_tokens=80)
                without = alone.ask(question, max_new_tokens=_ALONE).text
            show(console, question, answer, without)

        for question in told.before:
            put(question)
        added = told.added
        console.print(f"+ the {added.property} of {added.name} is {added.value}", style="bold cyan", highlight=False)
        knowledge_base.add(added)
        put(told.after)


def judge(
    demo: Demo, sizes: Sequence[int], questions: int, console: Console
) -> tuple[dict[int, Figures], TokenTimes, str]:
    """Figures of each size, times and backend with the largest."""
    material = standard_material(demo.answer)
    quizzes = {
        size: world_quizzes(
            material.entities(), size, material.style(False, None), questions=questions, others=material.others
        )
        for size in sizes
    }
    rows: dict[int, Figures] = {}
    with KnowledgeBase.create(None, demo.encoder) as largest:
        fill(largest, triples_of(quizzes[sizes[-1]][0]), console, label=f"encoding {sizes[-1]:,} triples")
        for size, parts in quizzes.items():
            with console.status(f"asking {questions} questions of {size:,} triples"):
                rows[size] = measure(demo, demo.encoder, parts)
        session, question = Session(demo.model, largest, tokenizer=demo.tokenizer), quizzes[sizes[-1]][0].questions[0]
        with console.status("timing"):
            times, backend = time_tokens(session, question.text, rounds=5), backend_in_use(session, question.text)
    return rows, times, backend


def report(path: Path, rows: dict[int, Figures], times: TokenTimes, backend: str) -> None:
    """Writes the demo's figures as JSON."""
    content = {
        "model": SMOLLM2,
        "sizes": {str(size): figures.to_dict() for size, figures in rows.items()},
        "ms_per_token": times.to_dict(),
        "backend": backend,
    }
    write_whole(path, json.dumps(content, indent=2) + "\n")


def run(console: Console, folder: Path, sizes: Sequence[int], questions: int, output: Path) -> None:
    """The whole demo."""
    with console.status("loading the model; the first time it is unpacked"):
        told, demo = story(), load(folder)
    tell(demo, told, console)
    rows, times, backend = judge(demo, sizes, questions, console)
    console.print(figures_of(rows, questions))
    console.print(
        f"A token: {times.without:.1f} ms without knowledge, {times.with_knowledge:.1f} ms with {sizes[-1]:,} "
        "triples.\n"
        f"The first: {times.first_without:.0f} and {times.first_with:.0f} ms, for the prompt is read then.\n"
        f"Backend {backend}, {many(torch.get_num_threads(), 'thread')}, "
        f"{str(demo.model.dtype).removeprefix('torch.')}. "
        f"Wrote {output}.",
        highlight=False,
    )
    report(output, rows, times, backend)
    next_steps(console)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m kblam.demo", description="SmolLM2 answers from a knowledge base that it never saw."
    )
    parser.add_argument("--adapter", type=Path, default=SMOLLM2_ADAPTER, help="adapter folder for SmolLM2")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="held-out questions for each size")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="triples, ascending")
    parser.add_argument("--output", type=Path, default=REPORT)
    arguments = parser.parse_args()
    quiet_libraries()
    console = Console()
    console = Console(width=min(WIDTH, console.width))
    try:
        check_files(arguments.output)
        if arguments.adapter == SMOLLM2_ADAPTER and not smollm2_is_shipped():
            raise AdapterFormatError(
                f"this installation has no adapter for {SMOLLM2} in {SMOLLM2_ADAPTER}; train one (kblam train) and "
                "pass --adapter DIR, or see the tiny model: python -m kblam.demo.tiny"
            )
        run(console, arguments.adapter, arguments.sizes, arguments.questions, arguments.output)
    except KblamError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    return 0
