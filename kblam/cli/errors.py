"""From an exception to one red line on stderr and an exit status."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from kblam import interrupts
from kblam.cli import hints
from kblam.cli.output import err
from kblam.cli.streams import OutputError
from kblam.errors import (
    BadLinesError,
    DataServerError,
    EmbeddingError,
    EncoderError,
    EncoderMismatchError,
    EncoderUnavailableError,
    EngineDiedError,
    KblamError,
    KblamWarning,
    StoreWriteError,
    messages_name_flags,
    running,
    runs,
)
from kblam.interrupts import INTERRUPTED

FAILED = 1
BAD_INPUT = 2


class CommandError(KblamError):
    """A command was given options that do not go together, or lacks one that it needs."""


class InterruptedWorkError(KblamError):
    """The user stopped the work; the message says what is left of it."""


def exit_status(error: BaseException) -> int:
    """2 when other input would help; 1 when the input was fine and the work failed; 130 when it was stopped."""
    if isinstance(error, InterruptedWorkError):
        return INTERRUPTED
    if any(map(_is_of_a_full_device, _with_causes(error))):
        return FAILED
    if isinstance(error, (EncoderUnavailableError, EncoderMismatchError)):
        return BAD_INPUT
    if isinstance(
        error, (OutputError, StoreWriteError, EncoderError, EmbeddingError, DataServerError, EngineDiedError)
    ):
        return FAILED
    return BAD_INPUT if isinstance(error, (KblamError, *_kernel_errors())) else FAILED


class Commands(TyperGroup):
    """A group of commands; messages name flags of the one that runs, and help fills the lines of any screen."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        for command in self.commands.values():  # of a docstring, whose lines end where the source's do
            command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", command.help) if command.help else command.help
            for parameter in command.params:
                _leave_reading_to_the_command(parameter)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that runs now, which may be a group too."""
        found = super().resolve_command(ctx, args)
        if found[1] is not None:
            runs(" ".join([*ctx.command_path.split()[1:], str(found[1].name)]))
        return found


def _leave_reading_to_the_command(parameter: Any) -> None:
    """Typer refuses a path that the user may not read in a box of its own, also one that is only to be written."""
    described = getattr(parameter, "type_descriptor", None)
    # Of Typer as it is now, and of that which was built on click.
    both: tuple[Any, Any] = getattr(described, "parameter_info", None), getattr(parameter, "type", None)
    for checked in both:
        if hasattr(checked, "readable"):
            checked.readable = False


class ErrorsAsMessages(Commands):
    """The root group: what kblam raises on purpose becomes a message and an exit status, without a traceback.

    What other tools call a command or an option is answered by ours (`hints.py`).
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name, or of a name that is taken for it."""
        return super().get_command(ctx, hints.ALIASES.get(cmd_name, cmd_name))

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; `--debug` lets exceptions through."""
        with messages_name_flags():
            return self._invoke(ctx)

    def _invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if ctx.params.get("debug"):
                raise
            err.print("[yellow]interrupted[/]")
            raise typer.Exit(INTERRUPTED) from None
        except OutputError:
            raise  # `main` says it, and makes sure that it is said once
        except _expected() as error:
            if ctx.params.get("debug"):
                raise
            if interrupts.came() and not isinstance(error, InterruptedWorkError):
                err.print("[yellow]interrupted[/]")
                raise typer.Exit(INTERRUPTED) from None
            report(_message(error, _options(ctx)), error.details if isinstance(error, BadLinesError) else ())
            raise typer.Exit(exit_status(error)) from None
        except Exception as error:
            if (full := _without_room(error, _options(ctx))) is not None and not ctx.params.get("debug"):
                report(full)
                raise typer.Exit(FAILED) from None
            if (told := _of_a_path(error)) is not None and not ctx.params.get("debug"):
                report(told)
                raise typer.Exit(BAD_INPUT) from None
            hints.add_to(error)
            raise


def report(message: str, details: Sequence[str] = ()) -> None:
    """One line on stderr, red, never wrapped in the middle of a path; below it a line for each detail."""
    from kblam.knowledge.encoders.secrets import redact

    line = Text("error: ", style="bold red")
    line.append(redact(" ".join(message.split())), style="red")
    err.print(line, soft_wrap=True)
    for detail in details:
        err.print(Text(f"  {redact(' '.join(detail.split()))}", style="red"), soft_wrap=True)


class _ToStderr(logging.Handler):
    """What kblam logs as lines on stderr, on which nothing of a file's text reaches the terminal as it is."""

    def emit(self, record: logging.LogRecord) -> None:
        from kblam.knowledge.encoders.secrets import redact

        # A warning for who has no handler, of something that takes time and where nothing is wrong.
        is_note = record.levelno < logging.WARNING or getattr(record, "note", False)
        kind, style = ("note", "dim") if is_note else ("warning", "yellow")
        if record.levelno >= logging.ERROR:
            kind, style = "error", "red"
        told, error = record.getMessage(), record.exc_info[1] if record.exc_info else None
        if error is not None and str(error):
            told = f"{told}: {error}"
        err.print(Text(redact(f"{kind}: {told}"), style=style), soft_wrap=True)
        if error is not None:
            where = "".join(traceback.format_exception(error)).rstrip()
            err.print(Text(redact(where), style="dim"), soft_wrap=True)


class _Ours:
    """In place of `warnings.showwarning`.

    Args:
        others: shows the warnings of other packages, as before.
    """

    def __init__(self, others: Callable[..., None]) -> None:
        self._others = others
        self._shown: set[str] = set()

    def __call__(self, message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        from kblam.knowledge.encoders.secrets import redact

        if not issubclass(category, KblamWarning):
            self._others(message, category, *where, **more)
        elif (text := str(message)) not in self._shown:
            self._shown.add(text)
            err.print(Text(redact(f"warning: {text}"), style="yellow"), soft_wrap=True)


def show_warnings() -> None:
    """Shows what the packages warn of, and what they note; of Python's warnings each of ours once, in a line."""
    if not isinstance(warnings.showwarning, _Ours):
        warnings.showwarning = _Ours(warnings.showwarning)
    for name in ("kblam", "kblam_kernels"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, _ToStderr) for handler in logger.handlers):
            logger.addHandler(_ToStderr())
            logger.setLevel(logging.INFO)


def report_unexpected(error: BaseException) -> None:
    """The line for what nobody foresaw."""
    report(f"unexpected {type(error).__name__}: {error or 'no message'}")
    err.print("[dim]`kblam --debug ...` shows where; please report it with the output of `kblam doctor --json`[/]")


def _expected() -> tuple[type[BaseException], ...]:
    """KblamError, and the errors of the kernels and of torch's memory if those were ever imported."""
    found: list[type[BaseException]] = [KblamError, MemoryError, *_kernel_errors()]
    if torch := sys.modules.get("torch"):
        found.append(torch.OutOfMemoryError)
    return tuple(found)


def _kernel_errors() -> list[type[BaseException]]:
    """KernelError, if the kernels were ever imported: to import them is to import torch."""
    kernels = sys.modules.get("kblam_kernels.errors")
    return [] if kernels is None else [kernels.KernelError]


# errno of a full device, of a quota that is used up, of a file larger than may be.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# What is to be said of a path that the system refuses, wherever it was first looked at.
_FIX_OF_PATH = {
    errno.EACCES: "may this user read it, write it, and enter the folders above it?",
    errno.EPERM: "may this user read it, write it, and enter the folders above it?",
    errno.ENAMETOOLONG: "no file can be called so",
    errno.ELOOP: "a link leads back to itself; give the file itself",
    errno.EROFS: "its disk cannot be written; choose another place",
}
_PATH_SHOWN = 200


def _of_a_path(error: BaseException) -> str | None:
    """What to say of a file that may not be read or written, or cannot be one."""
    if not isinstance(error, OSError) or error.filename is None or (fix := _FIX_OF_PATH.get(error.errno or 0)) is None:
        return None
    path = str(error.filename)
    return f"{error.strerror}: {path if len(path) <= _PATH_SHOWN else path[:60] + '...'}; {fix}"


def _without_room(error: BaseException | None, options: Collection[str]) -> str | None:
    """What to say if it comes of a device that is full; libraries wrap what the system said, or only quote it."""
    # With --resume a command goes on from what is there, and begins where nothing is.
    again = "run the command again" + (" with --resume" if "--resume" in options else "")
    for cause in _with_causes(error):
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            where = f" for {cause.filename}" if cause.filename else ""
            return f"{cause.strerror}{where}; make room, and {again}"
        if (said := os.strerror(errno.ENOSPC)) in str(cause):
            return f"{said}; make room, and {again}"
    return None


def _is_of_a_full_device(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    sqlite = sys.modules.get("sqlite3")
    return sqlite is not None and isinstance(error, sqlite.Error) and "disk is full" in str(error)


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _options(ctx: Any) -> set[str]:
    """The options of the command that runs, below the group of this context."""
    command = ctx.command
    for name in running().split():
        command = command.get_command(ctx, name)
    return {option for parameter in command.params for option in parameter.opts}


def _message(error: BaseException, options: Collection[str]) -> str:
    text = (error.summary if isinstance(error, BadLinesError) else str(error)) or type(error).__name__
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        fixes = ["a smaller model", "a smaller knowledge base"]
        if "--dtype" in options:
            fixes.insert(0, "--dtype bfloat16")
        if running() == "train":  # its settings are no options of their own
            fixes = ["a smaller --per_device_train_batch_size or --triples", "a smaller model"]
        return f"out of memory: {text}; use {', '.join(fixes[:-1])}{',' * (len(fixes) > 2)} or {fixes[-1]}"
    return text
