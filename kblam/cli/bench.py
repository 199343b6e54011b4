"""`kblam bench`: attention to knowledge on this machine beside what PyTorch users have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from kblam.cli.output import err, out, waiting

if TYPE_CHECKING:
    from kblam_kernels.bench import Row


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer shapes and repeats: a minute or two.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the rows here, as JSON.")
    ] = None,
    flex: Annotated[
        bool, typer.Option("--flex/--no-flex", help="Compiled FlexAttention too: compiles for each shape.")
    ] = True,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Default: PyTorch's own choice.")] = None,
) -> None:
    """Measure attention to knowledge on this machine's CPU, beside PyTorch's and the machine's own limits.

    It is an error if the C++ kernels cannot be used here, or if two providers disagree.

    Example: kblam bench --quick --json bench.json
    """
    import torch

    from kblam_kernels.bench import FULL, QUICK, measure
    from kblam_kernels.common import native

    if threads is not None:
        torch.set_num_threads(threads)
    rows: list[Row] = []
    for shape in QUICK if quick else FULL:
        tokens = "1 new token" if shape.queries == 1 else f"{shape.queries:,} new tokens"
        title = f"{shape.regime}, {tokens}, {shape.triples:,} triples, {shape.heads_text}, {shape.dtype}"
        with waiting(title):
            rows_of_shape = measure(shape, repeats=5 if quick else 15, flex=flex)
        out.print(_table(title, rows_of_shape))
        rows += rows_of_shape
    out.print(f"{native.instruction_set()} kernels, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        err.print(f"{len(rows)} rows in {json_file}", markup=False)


def _table(title: str, rows: list[Row]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1))
    table.add_column("provider", width=22)
    for column in ("ms", "x best peer", "of ceiling"):
        table.add_column(column, justify="right", width=11)
    for row in rows:
        style = (
            "green" if row["provider"].startswith("kblam") else "dim" if row["provider"].startswith("ceil") else None
        )
        numbers = (row["ms"], row["ratio_to_best_peer"], row["share_of_ceiling"])
        table.add_row(row["provider"], *(f"{number:.2f}" for number in numbers), style=style)
    return table
