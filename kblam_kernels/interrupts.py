"""How a command of this package ends as a process: 130 after Ctrl-C, 1 where nobody reads on, never with a traceback.

`import torch` takes seconds and comes before the code of any command, since Python imports a package before what is
run of it. So the package calls `begin` before it imports anything.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
_came = False


def begin() -> None:
    """An interrupt ends the process from now until `leave`, if `python -m` is importing this package to run it."""
    ours = __name__.partition(".")[0]
    # While it looks for what to run, Python calls the program so.
    if sys.argv[:1] == ["-m"] and any(given.partition(".")[0] == ours for given in sys.orig_argv):
        _handle(_end, instead_of=signal.default_int_handler)


def leave(main: Callable[[], int | None]) -> NoReturn:
    """Runs a command and leaves the process with its exit status, see `status_of`."""
    if not _handle(_note, instead_of=_end):
        _handle(_note, instead_of=signal.default_int_handler)
    try:
        status = status_of(main)
    except Exception:
        # Where modules are imported, an interrupt often becomes another error.
        if not _came:
            raise
        status = say_so()
    # Python ends itself by the signal, whatever `sys.exit` says, once an interrupt has left the code of a string given
    # to `exec`, as each dataclass is made. Running another string takes that back.
    exec("")
    sys.exit(status)


def status_of(main: Callable[[], int | None]) -> int:
    """The exit status of a command: its own, 130 after Ctrl-C, 1 where nobody reads its output on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold what the locale lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main() or 0
        if sys.stdout is not None:  # else it is closed
            sys.stdout.flush()
    except KeyboardInterrupt:
        return say_so()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain while it ends
        return 1
    return status


def say_so() -> int:
    """The line on stderr; returns the exit status."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # nobody reads it any more
            sys.stderr.write("interrupted\n")
            sys.stderr.flush()
    return INTERRUPTED


def _handle(handler: Callable[[int, FrameType | None], None], *, instead_of: Callable[..., object]) -> bool:
    """Whether it is the handler now: not where somebody else handles interrupts, or ignores them."""
    if signal.getsignal(signal.SIGINT) is not instead_of:
        return False
    with suppress(ValueError):  # not the main thread, which gets no interrupts
        signal.signal(signal.SIGINT, handler)
    return True


def _end(number: int, frame: FrameType | None) -> None:
    # Nothing is begun that would have to be tidied up, and what imports torch might take an error for something else.
    os._exit(say_so())


def _note(number: int, frame: FrameType | None) -> None:
    global _came
    _came = True
    signal.default_int_handler(number, frame)
