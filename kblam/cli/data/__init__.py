"""`kblam data`: triples out of documents, graphs, tables, packages and language models; one file a command."""

from __future__ import annotations

import typer

from kblam.cli.data import real
from kblam.cli.data.export import export
from kblam.cli.data.extract import extract
from kblam.cli.data.import_ import import_
from kblam.cli.data.questions import questions
from kblam.cli.data.synthesise import synthesise
from kblam.cli.errors import Commands
from kblam.shipped import DOCS

app = typer.Typer(
    cls=Commands,
    help="Bring triples in and out: documents, graphs, tables, real knowledge bases, invented ones.",
    epilog=f"Guide: {DOCS / 'data.md'}",  # below, where a long path has room
    no_args_is_help=True,
)
real.add_to(app)
app.command("import")(import_)
app.command("export")(export)
app.command("extract")(extract)
app.command("questions")(questions)
app.command("synthesise")(synthesise)
