"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kblam.errors import TripleFormatError, argument


@contextmanager
def whole_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """The path of an unfinished file beside it, which takes its place when the block ends well.

    Args:
        overwrite: replace what is at `path`.

    Raises:
        TripleFormatError: the path cannot be written, or something is there that is not to be replaced.
    """
    file = path.resolve()  # a link stays one, and the unfinished file lies beside what it means
    if not overwrite and file.exists():  # before minutes of writing, not only after
        raise _taken(path)
    # The suffix stays: some writers look at it.
    unfinished = file.with_name(f".{file.stem}.{os.getpid()}.part{file.suffix}")
    try:
        try:
            yield unfinished
            if overwrite:
                unfinished.replace(file)
            else:
                _publish(unfinished, file)
        finally:
            unfinished.unlink(missing_ok=True)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        raise TripleFormatError(f"cannot write: {error.strerror}", path=file) from error


def _taken(file: Path) -> TripleFormatError:
    fix = argument("overwrite=True", "--overwrite", ("kb export", "data import", "data export"))
    return TripleFormatError(f"there is a file already; {fix} replaces it", path=file)


def _publish(unfinished: Path, file: Path) -> None:
    """Gives a file its name; FileExistsError if something has it, also if it came there meanwhile."""
    try:
        file.hardlink_to(unfinished)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with file.open("xb"):
            pass
        unfinished.replace(file)
