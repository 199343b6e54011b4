"""Every error kblam raises on purpose: each message names the value that failed and the fix.

All derive from `KblamError`, so `except KblamError` separates "your input or machine" from a bug in kblam.
`docs/errors.md` lists what raises each of them, and the test of each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# The command that runs, such as "kb build"; "" before it is known, None in Python.
_command: str | None = None


def argument(python: str, flag: str, commands: Sequence[str], otherwise: str | None = None) -> str:
    """An argument as the reader of a message types it: in Python, or on the command line while a command runs.

    Args:
        commands: those that take the flag.
        otherwise: what a command says that does not; None names the first that does.
    """
    if _command is None:
        return python
    if _command in commands:
        return flag
    return f"{flag} of `kblam {commands[0]}`" if otherwise is None else otherwise


@contextmanager
def messages_name_flags() -> Iterator[None]:
    """Messages made meanwhile, in any thread, name flags of the command that `runs`."""
    global _command
    before, _command = _command, ""
    try:
        yield
    finally:
        _command = before


def runs(command: str) -> None:
    """Says which command runs, so that messages name flags that it has."""
    global _command
    _command = command


def running() -> str:
    """The command that runs, such as "kb build"; "" where none does, or it is not known yet."""
    return _command or ""


class KblamError(Exception):
    """Base of every error that kblam raises on purpose."""


class KblamWarning(UserWarning):
    """Base of every warning of kblam: what goes on, but probably not as was meant. Commands show it as their own."""


class MissingPackageError(KblamError, ImportError):
    """A package that the kernels alone do not need is not installed; the message says which command installs it."""


# --- triples ---------------------------------------------------------------------------------------------


class TripleFormatError(KblamError):
    """A triple, or a file of triples, cannot be read.

    `path` and `line` (from 1) say where, when the triple came from a file; the message begins with them. `reason` is
    the message without them.
    """

    def __init__(self, message: str, *, path: str | Path | None = None, line: int | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.line = line
        self.reason = message
        where = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(where + message)


class BadLinesError(TripleFormatError):
    """Several lines of a file of triples cannot be read; all of them are told at once.

    Attributes:
        summary: what the details are about.
        line: the first of them; None where the source has no lines, as a database.
        count: how many.
        details: a text for each kind of trouble, with its lines; the commonest are there, not all.
    """

    def __init__(self, message: str, details: Sequence[str], *, path: str | Path, line: int | None, count: int) -> None:
        self.count = count
        self.details = tuple(details)
        super().__init__("; ".join([message, *details]), path=path)
        self.summary = f"{path}: {message}"
        self.line = line


# --- encoders --------------------------------------------------------------------------------------------


class EncoderError(KblamError):
    """An encoder failed, was refused by its server, or returned something that is not a batch of vectors."""


class EncoderUnavailableError(EncoderError):
    """An encoder cannot be used on this machine: unknown name, package, model, device or key is missing."""


class EncoderMismatchError(EncoderError):
    """A knowledge base was built with another encoder than the one given: their vectors cannot be mixed."""


class EmbeddingError(KblamError):
    """Vectors that cannot be stored: NaN, infinity, beyond float16, or of the wrong shape."""


# --- the store -------------------------------------------------------------------------------------------


class StoreError(KblamError):
    """A knowledge base file cannot be used: it is missing, closed, or SQLite reported something unexpected."""


class StoreReplacedError(StoreError):
    """The file was removed, or another one moved in its place, after it was opened: what is there has to be opened."""


class StoreFormatError(StoreError):
    """A file is not a knowledge base, is damaged, or is of a newer format. It is left untouched."""


class StoreWriteError(StoreError):
    """A write did not happen (read-only, no space, no such folder): the knowledge base is as it was."""


class StoreBusyError(StoreWriteError):
    """Another process kept the knowledge base locked for longer than the timeout."""


# --- adapters, models and knowledge in use ---------------------------------------------------------------


class AdapterError(KblamError):
    """An adapter cannot be used."""


class AdapterConfigError(AdapterError):
    """An adapter configuration contradicts itself, or does not fit the model or the encoder."""


class AdapterFormatError(AdapterError):
    """Adapter files cannot be read: missing, damaged, of a newer format, or tensors of the wrong shape."""


class UnsupportedModelError(KblamError):
    """A model is of a family, or in a state, that `attach` does not support."""


class KnowledgeError(KblamError):
    """Knowledge does not fit what it is attached to: dtype, device, shape or dimension."""


class DeviceFullError(KnowledgeError):
    """A device has no room for knowledge, or not for a second copy of what is being read."""


class ModelFolderError(KblamError):
    """A folder written by `kblam integrate` cannot be read: missing pieces, damaged, or of a newer format."""


class GenerationError(KblamError):
    """A question cannot be answered: empty, longer than the model's context, or nothing is attached."""


class TooLongError(GenerationError):
    """A question, and the answer that is wanted of it, are longer than the model's context.

    Attributes:
        prompt_tokens: of the question.
        max_new_tokens: that the answer may have.
        room: tokens of the model's context.
    """

    def __init__(self, message: str, *, prompt_tokens: int, max_new_tokens: int, room: int) -> None:
        super().__init__(message)
        self.prompt_tokens, self.max_new_tokens, self.room = prompt_tokens, max_new_tokens, room


class GenerationFailedError(GenerationError):
    """What answers is at fault and not the question: a chat template or a tokenizer that does not fit the model."""


class RenderingError(GenerationFailedError):
    """The process that renders a chat template failed, for what else the machine does: it may go better later."""


class EngineError(KblamError):
    """An inference engine (vLLM) cannot be started, or changed, as asked with knowledge."""


class EngineDiedError(KblamError):
    """An inference engine has ended while it served; what it logged has the reason."""


class EngineRequestError(KblamError, ValueError):
    """A request to an inference engine asks for knowledge in a way that cannot be answered."""


class TrainingError(KblamError):
    """A training run cannot start or go on: no such checkpoint, another run's folder, a package is missing."""


class TrainingConfigError(TrainingError):
    """A training config cannot be read, or holds a name or value that is not possible."""


# --- data to train on and to ask about -------------------------------------------------------------------


class DataError(KblamError):
    """Data cannot be made: a package, a file or enough entities are missing, or a server wrote no facts."""


class DocumentError(DataError):
    """A document cannot be read: no such file or kind, too large, damaged, encrypted, or pictures in place of text."""


class DataServerError(DataError):
    """A server that was asked to write data keeps failing, or answers with something else."""


# --- evaluation ------------------------------------------------------------------------------------------


class EvaluationError(KblamError):
    """A model cannot be evaluated as asked: a base too small, an unknown row, a package that is missing."""


# --- serving ---------------------------------------------------------------------------------------------


class ServingError(KblamError):
    """A server cannot start as asked: a name, a key or an address that cannot be, or a base that is nobody's."""


# --- benchmarks ------------------------------------------------------------------------------------------


class BenchmarkError(KblamError):
    """A benchmark was asked for what it does not know, what does not fit, or a result file that is not of its kind."""
