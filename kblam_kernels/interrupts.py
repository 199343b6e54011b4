"""How a command of this package ends as a process: 130 after Ctrl-C, 1 where nobody reads on, without a traceback."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

INTERRUPTED = 130


def leave(main: Callable[[], int | None]) -> NoReturn:
    """Runs a command and leaves the process with its exit status, see `status_of`."""
    sys.exit(status_of(main))


def status_of(main: Callable[[], int | None]) -> int:
    """The exit status of a command: its own, 130 after Ctrl-C, 1 where nobody reads its output on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold what the locale lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main() or 0
        if sys.stdout is not None:  # else it is closed
            sys.stdout.flush()
    except KeyboardInterrupt:  # a build takes a minute
        if sys.stderr is not None:
            with suppress(OSError, ValueError):  # nobody reads it any more
                sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain while it ends
        return 1
    return status
