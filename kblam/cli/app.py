"""The root of the command tree."""

from __future__ import annotations

from typing import Annotated

import typer

from kblam import __version__
from kblam.cli.ask import ask
from kblam.cli.bench import bench
from kblam.cli.chat import chat
from kblam.cli.convert import convert
from kblam.cli.data import app as data_app
from kblam.cli.doctor import doctor
from kblam.cli.errors import ErrorsAsMessages
from kblam.cli.evaluate import evaluate
from kblam.cli.integrate import integrate
from kblam.cli.kb import app as kb_app
from kblam.cli.output import out
from kblam.cli.serve import serve
from kblam.cli.train import calibrate, train
from kblam.shipped import DOCS


def _with_dashes(word: str) -> str:
    return word.replace("_", "-")


app = typer.Typer(
    cls=ErrorsAsMessages,
    help="A knowledge base of triples for any Hugging Face language model.",
    epilog=f"Exit status: 0 done, 1 the work failed, 2 bad input, 130 interrupted. Guide: {DOCS / 'cli.md'}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    # --max_new_tokens is --max-new-tokens.
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _with_dashes},
)
app.add_typer(kb_app, name="kb")
app.add_typer(data_app, name="data")
app.command()(ask)
app.command()(chat)
app.command()(serve)
app.command()(integrate)
app.command()(convert)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(train)
app.command()(calibrate)
app.command()(doctor)
app.command()(bench)
app.command("eval")(evaluate)


def _print_version(asked: bool) -> None:
    if asked:
        out.print(f"kblam {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A knowledge base of triples for any Hugging Face language model: build it, ask it, change it."""
