"""What the demo prints: questions, answers and evidence, each within the width of the screen."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kblam.evaluation.figures import Figures
from kblam.generation import Answer
from kblam.generation.drawing import evidence_lines

WIDTH = 80
_LEAST = 0.05  # a smaller share is not drawn
_SHOWN = 2
_COLUMNS = (
    ("exact", "exact_single"),
    ("two facts", "exact_pair"),
    ("top-1", "top1"),
    ("refusal P", "refusal_precision"),
    ("refusal R", "refusal_recall"),
)


def show(console: Console, question: str, answer: Answer, without: str | None = None) -> None:
    """A question, its answer, a bar for each triple that the answer rests on, and what the model says without any.

    Args:
        without: the answer without knowledge.
    """
    lines = Table.grid(padding=(0, 1))
    lines.add_column(width=1, style="bold")
    lines.add_column(overflow="fold")
    lines.add_row("Q", Text(question))
    lines.add_row("A", Text(answer.text, style="yellow" if answer.refused else "green"))
    console.print(lines)
    if not answer.refused:
        for line in evidence_lines(answer.evidence, least=_LEAST, bars=_bars_of(console))[:_SHOWN]:
            console.print(line, no_wrap=True, overflow="ellipsis")
    if without is not None:
        said = " ".join(without.split())
        console.print(Text(f"  without knowledge: {said}", style="dim"), no_wrap=True, overflow="ellipsis")


def _bars_of(console: Console) -> str:
    """A full and an empty piece of a bar, in characters that the console has."""
    try:
        "█░".encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return "#."
    return "█░"


def next_steps(console: Console) -> None:
    """What to try after a demo: the last lines of it."""
    here = Path(sys.executable).parent / "kblam"
    command = str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else "kblam"
    console.print(
        Text.assemble(
            "Try next, with facts of your own in facts.jsonl, each a line such as\n",
            '  {"name": "Amber Falcon", "property": "color", "value": "green"}\n',
            f"  {command} kb build facts.jsonl -o facts.kb\n",
            f'  {command} ask "What is the color of Amber Falcon?" --kb facts.kb',
        )
    )


def figures_of(rows: dict[int, Figures], questions: int) -> Table:
    """The figures of each size."""
    table = Table(title=f"{questions} held-out questions a row", title_justify="left", title_style="bold")
    table.add_column("triples", justify="right", no_wrap=True)
    for title, _ in _COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    for size, figures in rows.items():
        table.add_row(f"{size:,}", *(_number(getattr(figures, name)) for _, name in _COLUMNS))
    return table


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"
