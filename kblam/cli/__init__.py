"""The command `kblam`. Nothing here imports torch or transformers before a command needs it."""

from __future__ import annotations

import sys
from contextlib import suppress

from kblam import interrupts

_BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and leaves the process with its exit status.

    0: done; 1: the work failed; 2: bad input; 130: interrupted.
    """
    interrupts.leave(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> int | str | None:
    try:
        return _run_installed(arguments)
    except ModuleNotFoundError as error:  # also of rich and typer, so nothing of theirs may be needed to say it
        from kblam.extras import missing

        if interrupts.came() and "--debug" not in arguments:
            return interrupts.say_so()
        reason = missing(error)
        if reason is None or "--debug" in arguments:
            raise
        if sys.stderr is not None:
            with suppress(OSError, ValueError):  # nobody reads it any more
                sys.stderr.write(f"error: {reason}\n")
        return _BAD_INPUT


def _run_installed(arguments: list[str]) -> int | str | None:
    from kblam.cli import streams
    from kblam.cli.app import app
    from kblam.cli.errors import FAILED, report, report_unexpected, show_warnings
    from kblam.extras import missing

    streams.prepare()
    show_warnings()
    try:
        try:
            app(args=arguments, prog_name="kblam")
            status: int | str | None = 0
        except SystemExit as end:
            status = end.code
        streams.finish()
        return status
    except streams.OutputError as error:
        streams.abandon()
        report(str(error))
        return FAILED
    except Exception as error:  # a bug of ours or a library's, or an interrupt: one line without --debug
        not_installed = isinstance(error, ModuleNotFoundError) and missing(error) is not None
        if not_installed or "--debug" in arguments:
            raise
        if interrupts.came():
            return interrupts.say_so()
        report_unexpected(error)
        return FAILED
