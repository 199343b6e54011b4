"""Files of triples and questions that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kblam.errors import TripleFormatError, argument
from kblam.whole import whole, why_not


@contextmanager
def whole_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """`whole`, with its errors as those of a file of triples.

    Raises:
        TripleFormatError: the path cannot be written, or something is there that is not to be replaced.
    """
    try:
        with whole(path, overwrite=overwrite) as unfinished:
            yield unfinished
    except FileExistsError:
        raise _in_the_way(path) from None
    except OSError as error:
        raise TripleFormatError(f"cannot write: {error.strerror}", path=os.path.realpath(path)) from error


def check_target(path: Path, *, overwrite: bool) -> None:
    """Before long work: whether its result can be written there.

    Raises:
        TripleFormatError: it cannot, or something is there that is not to be replaced.
    """
    if (reason := why_not(path)) is not None:
        raise TripleFormatError(reason)
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise TripleFormatError(f"cannot write: there is no folder {folder}", path=path)
    if not overwrite and path.is_file():
        raise _in_the_way(path)


def _in_the_way(path: Path) -> TripleFormatError:
    fix = argument(
        "overwrite=True",
        "--overwrite",
        (
            "kb export",
            "data import",
            "data export",
            "data questions",
            "data elements",
            "data airports",
            "data weaknesses",
            "data compounds",
            "data wordnet",
        ),
    )
    return TripleFormatError(f"there is a file already; {fix} replaces it", path=os.path.realpath(path))
