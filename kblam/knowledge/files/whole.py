"""Files of triples and questions that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kblam.errors import TripleFormatError, argument
from kblam.whole import whole


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
        fix = argument("overwrite=True", "--overwrite", ("kb export", "data import", "data export", "data questions"))
        raise TripleFormatError(f"there is a file already; {fix} replaces it", path=path.resolve()) from None
    except OSError as error:
        raise TripleFormatError(f"cannot write: {error.strerror}", path=path.resolve()) from error
