"""`kblam doctor`: what works on this machine, what does not and why, and the fix."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from kblam.cli.checks import ADAPTER, ENCODER, MODEL
from kblam.cli.options import AsJson
from kblam.cli.output import out, print_json, waiting
from kblam.cli.tables import print_table
from kblam.counts import many
from kblam.test import FAIL, OFF, OK, Outcome, mark_of, works

_NEEDED = (ENCODER, MODEL, ADAPTER)


def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Also run the self-test, `python -m kblam.test`.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what works on this machine, what does not and why, and the fix.

    Exit status 0 when nothing that kblam needs is broken, 1 otherwise. The last line says whether a knowledge base can
    be built and asked right now, without a download.

    Example: kblam doctor --deep
    """
    with waiting("looking around"):
        from kblam.cli.checks import all_checks

        outcomes = all_checks()
    if deep:
        from kblam.test import run

        with waiting("testing"):
            outcomes += run()
    fine = works(outcomes)
    if as_json:
        print_json({"works": fine, "checks": [dataclasses.asdict(outcome) for outcome in outcomes]})
    else:
        _print(outcomes, fine)
    raise typer.Exit(0 if fine else 1)


def _print(outcomes: list[Outcome], fine: bool) -> None:
    table = Table(box=None, show_header=False, padding=(0, 1))
    for outcome in outcomes:
        detail = Text(outcome.detail, overflow="fold")  # a path too long for the screen is whole
        if outcome.fix and outcome.status != OK:
            detail.append(f"\nfix: {outcome.fix}", style="cyan")
        mark, style = mark_of(outcome.status, getattr(out.file, "encoding", None))
        table.add_row(Text(mark, style=style), Text(outcome.name, style="bold"), detail)
    print_table(table)
    off = sum(outcome.status == OFF for outcome in outcomes)
    broken = sum(outcome.status == FAIL for outcome in outcomes)
    waited_for = [outcome.name for outcome in outcomes if outcome.name in _NEEDED and outcome.status != OK]
    if not fine:
        out.print(f"[bold red]The main job does not work here: {broken} of {len(outcomes)} checks failed.[/]")
    elif waited_for:
        out.print(f"[bold yellow]Nothing is broken; not ready yet: {', '.join(waited_for)} (see the fix above).[/]")
    else:
        out.print(
            "[bold green]A knowledge base can be built and asked here.[/] "
            f"{many(off, 'optional part is', 'optional parts are')} off."
        )
