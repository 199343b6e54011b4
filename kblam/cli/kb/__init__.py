"""`kblam kb`: build a knowledge base, change it, look into it. Loads neither torch nor an encoder to look."""

from __future__ import annotations

import typer

from kblam.cli.errors import Commands
from kblam.cli.kb.changing import add, build, remove
from kblam.cli.kb.doctor import doctor
from kblam.cli.kb.info import info
from kblam.cli.kb.looking import check, export, list_triples

app = typer.Typer(cls=Commands, help="Build, change and look into a knowledge base.", no_args_is_help=True)
app.command("build")(build)
app.command("add")(add)
app.command("remove")(remove)
app.command("list")(list_triples)
app.command("export")(export)
app.command("info")(info)
app.command("check")(check)
app.command("doctor")(doctor)
