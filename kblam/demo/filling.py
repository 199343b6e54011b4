"""A knowledge base that is filled while somebody watches."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kblam.knowledge import KnowledgeBase, Triple


def fill(
    knowledge_base: KnowledgeBase, triples: Sequence[Triple], console: Console, *, label: str, stays: bool = False
) -> float:
    """Adds triples under a progress bar: this encodes two texts each. Returns the seconds it took.

    Args:
        label: of the bar.
        stays: leave the bar on the screen.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    began = time.monotonic()
    with Progress(*columns, console=console, transient=not stays) as progress:
        task = progress.add_task(label, total=len(triples))
        knowledge_base.update(
            triples, total=len(triples), progress=lambda done, _: progress.update(task, completed=done)
        )
    return time.monotonic() - began
