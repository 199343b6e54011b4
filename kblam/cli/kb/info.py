"""What a knowledge base holds, and how a model would read it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from kblam.cli.errors import CommandError
from kblam.cli.files import open_file
from kblam.cli.loading import ModelOptions, plan_for
from kblam.cli.options import AdapterSource, AsJson, Dtype, KnowledgeFile, Model, PlanPin, Precision, Storage
from kblam.cli.output import on_one_line, out, print_json, size_of, waiting
from kblam.cli.tables import print_table, wrapped
from kblam.counts import many
from kblam.errors import EncoderMismatchError

if TYPE_CHECKING:
    from kblam.knowledge import KnowledgeBase
    from kblam_kernels import Plan

_ROWS_AT_ONCE = 1000
_PROPERTIES_SHOWN = 6


def info(
    kb: KnowledgeFile,
    model: Model = None,
    adapter: AdapterSource = None,
    dtype: Dtype = Precision.auto,
    storage: Storage = "auto",
    plan: PlanPin = "auto",
    as_json: AsJson = False,
) -> None:
    """Show what a knowledge base holds: how many triples, names and properties, which encoder, how large, how old.

    And the plan: whether a model (--model; else the one that answers by default) reads it as latents or as dense keys
    and values on this machine, why, and how many bytes it takes there.

    Example: kblam kb info facts.kb
    """
    options = ModelOptions(model, adapter, kb, None, dtype, "auto", storage, plan)
    with open_file(kb) as opened, waiting("reading"):
        path = opened.path
        assert path is not None
        names, properties = opened.distinct()
        common = opened.properties(most=_PROPERTIES_SHOWN)
        changed = datetime.fromtimestamp(_changed(path)).astimezone()
        facts: dict[str, Any] = {
            "path": str(path),
            "triples": len(opened),
            "names": names,
            "properties": properties,
            "encoder": opened.encoder_spec,
            "fingerprint": opened.fingerprint,
            "dimension": opened.dimension,
            "revision": opened.revision,
            "changed": changed.isoformat(timespec="seconds"),
            "bytes": path.stat().st_size,
        }
        planned, refusal = _planned(opened, options)
    if as_json:
        print_json({**facts, "plan": {"refused": refusal} if planned is None else _record(planned)})
        return
    triples = facts["triples"]
    most = ("; most often " if properties > len(common) else ": ") + ", ".join(common) if common else ""
    each = f", {size_of(facts['bytes'] / triples)} a triple" if triples >= _ROWS_AT_ONCE else ""
    shown = {
        "file": str(path),
        "triples": f"{triples:,}, about {many(names, 'name')}",
        "properties": f"{properties:,}{most}",
        "encoder": f"{facts['encoder']}, vectors of {facts['dimension']:,} numbers",
        "fingerprint": facts["fingerprint"],
        "size": f"{size_of(facts['bytes'])}{each}",
        "changed": f"{changed:%Y-%m-%d %H:%M} (revision {facts['revision']:,})",
    }
    table = Table(box=None, show_header=False)
    for key, value in shown.items():
        table.add_row(key, _plain(value))
    print_table(table)
    who = options.model or options.adapter or "the model that answers by default"
    told = f"no plan for {who}: {refusal}" if planned is None else f"how {who} reads it:\n{planned}"
    out.print(Text(f"\n{wrapped(told)}", style="dim"), soft_wrap=True)


def _record(plan: Plan) -> dict[str, Any]:
    """A plan as plain values."""
    return {
        "decode": plan.decode,
        "prefill": plan.prefill,
        "crossover": plan.crossover,
        "changes": list(plan.changes),
        "held_bytes": plan.held_bytes,
        "device": plan.device.name,
        "reasons": list(plan.reasons),
    }


def _planned(kb: KnowledgeBase, options: ModelOptions) -> tuple[Plan | None, str]:
    """The plan of the model that is asked for, or why the one that answers by default has none: nothing is asked then.

    Raises:
        KblamError: the user named a model that cannot read it, or a plan that is not possible.
    """
    try:
        return plan_for(options, kb), ""
    except (CommandError, EncoderMismatchError) as error:
        if options.model is not None or options.adapter is not None:
            raise
        return None, str(error)


def _changed(path: Path) -> float:
    """When the file was written last; what was written since the log was last emptied is in the log."""
    log = path.with_name(path.name + "-wal")
    times = [file.stat().st_mtime for file in (path, log) if file.exists() and file.stat().st_size]
    return max(times, default=0.0)


def _plain(value: object) -> Any:
    """A cell whose brackets are brackets, not rich markup, and whose control characters have a width."""
    return Text(on_one_line(str(value)), overflow="fold")  # a path too long for the screen is whole
