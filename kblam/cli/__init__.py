"""The command `kblam`. Nothing here imports torch or transformers before a command needs it."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and leaves the process with its exit status.

    0: done; 1: the work failed; 2: bad input; 130: interrupted.
    """
    from kblam.cli.app import app
    from kblam.cli.errors import report_unexpected

    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(args=arguments, prog_name="kblam")
    except Exception as error:  # a bug of ours, or of a library: one line unless --debug asks for more
        if "--debug" in arguments:
            raise
        report_unexpected(error)
        sys.exit(1)
