"""`kblam kb doctor`: what will go wrong with a knowledge base, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from kblam.cli.files import asked_encoder, open_file
from kblam.cli.options import AsJson, EncoderKey, KnowledgeFile
from kblam.cli.output import out, print_json, progress_bar

if TYPE_CHECKING:
    from kblam.evaluation.health import Health

_FINE, _POOR = 0.95, 0.8


def doctor(
    kb: KnowledgeFile,
    questions: Annotated[int, typer.Option("--questions", "-n", min=1, help="To ask at most.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Of the questions.")] = 0,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", "-e", help="The encoder it was built with, if that is not the default one."),
    ] = None,
    api_key_env: EncoderKey = None,
    as_json: AsJson = False,
) -> None:
    """Tell before training or serving what will go wrong with a knowledge base, and what to do about it.

    Without a language model: which keys the encoder cannot tell apart, which texts are too long for it, which values
    are empty or no text, and how many questions, made by templates, find their own fact first.

    Example: kblam kb doctor facts.kb
    """
    from kblam.evaluation.health import examine

    with (
        open_file(kb, encoder=asked_encoder(kb, encoder, api_key_env)) as opened,
        progress_bar("examining") as progress,
    ):
        health = examine(opened, questions=questions, seed=seed, progress=progress)
    if as_json:
        print_json({"knowledge_base": str(kb), **health.to_dict()})
        return
    _print(str(kb), health)


def _print(name: str, health: Health) -> None:
    expected = health.expected
    low, high = expected.interval
    style = "green" if expected >= _FINE else "yellow" if expected >= _POOR else "red"
    out.print(Text(f"{name}: {health.triples:,} triples"), soft_wrap=True)
    out.print(
        Text(
            f"{expected:.0%} of questions can be expected to be answered ({low:.0%} to {high:.0%}; "
            f"{health.asked:,} asked)",
            style=f"bold {style}",
        ),
    )
    out.print(f"{health.found:.0%} find their own fact first, among all {health.triples:,}")
    if health.keys < health.triples:
        out.print(f"neighbours were looked for of {health.keys:,} keys", style="dim")
    if not health.counts:
        out.print("nothing else was found")
        return
    out.print()
    width = max(len(f"{count:,}") for count in health.counts.values())
    for kind, count in health.counts.items():
        out.print(f"{count:>{width},}  {kind}", markup=False)
    out.print(f"\nthe worst {len(health.worst)}:", style="bold")
    kind = ""
    for finding in sorted(health.worst, key=lambda one: (list(health.counts).index(one.kind), -one.weight)):
        if finding.kind != kind:
            kind = finding.kind
            out.print(Text(f"{kind}: {finding.fix}", style="cyan"))
        out.print(Text(f"- {finding.what}", overflow="fold"))
