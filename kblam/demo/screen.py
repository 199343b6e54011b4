"""What the demo prints: questions, answers and evidence, each within the width of the screen."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kblam.evaluation.figures import Figures
from kblam.generation import Answer

WIDTH = 80
_BAR = 20
_LEAST = 0.05  # a smaller share is not drawn
_SHOWN = 2
_COLUMNS = (
    ("exact", "exact_single"),
    ("two facts", "exact_pair"),
    ("top-1", "top1"),
    ("refusal P", "refusal_precision"),
    ("refusal R", "refusal_recall"),
)


def show(console: Console, question: str, answer: Answer) -> None:
    """A question, its answer, and a bar for each triple that the answer rests on."""
    lines = Table.grid(padding=(0, 1))
    lines.add_column(width=1, style="bold")
    lines.add_column(overflow="fold")
    lines.add_row("Q", Text(question))
    lines.add_row("A", Text(answer.text, style="yellow" if answer.refused else "green"))
    console.print(lines)
    if answer.refused:
        return
    for evidence in [each for each in answer.evidence if each.mass >= _LEAST][:_SHOWN]:
        triple = evidence.triple
        bar = "█" * max(1, round(evidence.mass * _BAR))
        line = f"  {bar:<{_BAR}} {evidence.mass:4.0%}  {triple.property} of {triple.name}: {triple.value}"
        console.print(Text(line, style="dim"), no_wrap=True, overflow="ellipsis")


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
