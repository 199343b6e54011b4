"""The demo model's figures as a table for the screen, and as a file."""

from __future__ import annotations

import json
from pathlib import Path

from rich.table import Table

from kblam.evaluation.figures import Figures


def figures_table(rows: dict[str, Figures], title: str) -> Table:
    """The figures as a rich table, one line a row."""
    table = Table(title=title)
    table.add_column("triples")
    for column in ("exact", "one fact", "two", "top-1", "refusal P", "R", "F1"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, f in rows.items():
        values = (f.exact, f.exact_single, f.exact_pair, f.top1, f.refusal_precision, f.refusal_recall, f.refusal_f1)
        table.add_row(name, *("-" if value != value else f"{value:.3f}" for value in values))
    return table


def write_metrics(folder: Path, rows: dict[str, Figures]) -> None:
    """Writes `folder/metrics.json`: row name to figures."""
    text = json.dumps({name: figures.to_dict() for name, figures in rows.items()}, indent=2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
