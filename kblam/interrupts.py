"""Ctrl-C, also where a library takes the KeyboardInterrupt for something else.

While modules are imported an interrupt often becomes an ImportError, so that a command would tell of a package that is
not there. Therefore it is remembered that it came, and an error after it is its consequence.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import ExtensionFileLoader
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
_AGAIN = 0.05  # seconds until an interrupt that could not be raised is tried again
_came = False


def leave(main: Callable[[], int | str | None]) -> NoReturn:
    """Runs a command and leaves the process with its exit status: 130 after an interrupt, without a traceback.

    What the encoding of its output lacks is written as escapes, where Python would fail.

    Args:
        main: returns the status.
    """
    try:
        watch()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        status = main()
    except KeyboardInterrupt:  # wherever it came: while modules are imported, or while results are written
        status = say_so()
    except Exception:
        if not came():
            raise
        status = say_so()
    # Python ends itself by the signal, whatever `sys.exit` says, once an interrupt has left the code of a string given
    # to `exec`, as each dataclass is made. Running another string takes that back.
    exec("")
    sys.exit(status)


def say_so() -> int:
    """The line on stderr; returns the exit status."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # nobody reads it any more
            sys.stderr.write("interrupted\n")
    return INTERRUPTED


def watch() -> None:
    """Remembers interrupts from now on; they are raised as before. Not where somebody else handles or ignores them."""
    global _came
    _came = False
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _note)
    except ValueError:
        pass  # not the main thread, which gets no interrupts


def came() -> bool:
    """Whether one came that nobody has taken."""
    return _came


def taken() -> None:
    """Says that a command has dealt with it and goes on."""
    global _came
    _came = False


def _note(number: int, frame: FrameType | None) -> None:
    global _came
    _came = True
    if _in_an_extension(frame):
        again = threading.Timer(_AGAIN, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
    else:
        signal.default_int_handler(number, frame)


def _in_an_extension(frame: FrameType | None) -> bool:
    """Whether a module in C or C++ is being loaded: torch aborts the process where its set-up is interrupted."""
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False
