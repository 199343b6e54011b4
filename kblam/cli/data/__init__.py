"""`kblam data`: triples out of packages and language models; one file a command."""

from __future__ import annotations

import typer

from kblam.cli.data import real
from kblam.cli.data.export import export
from kblam.cli.data.import_ import import_
from kblam.cli.data.synthesise import synthesise
from kblam.cli.errors import Commands
from kblam.shipped import DOCS

app = typer.Typer(
    cls=Commands,
    help=f"Write triples: real knowledge bases, or invented ones. Guide: {DOCS / 'data.md'}",
    no_args_is_help=True,
)
real.add_to(app)
app.command("import")(import_)
app.command("export")(export)
app.command("synthesise")(synthesise)
