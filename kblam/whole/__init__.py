"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kblam.whole.lasting import permissions, settle_file, settle_names
from kblam.whole.unfinished import mark, unfinished_file

_OWN = 0o600  # to read and to write it
# What a folder says in which nothing can be made, /proc the first.
_REFUSED = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def whole(path: Path, *, overwrite: bool = True, lasts: bool = True) -> Iterator[Path]:
    """The path of an unfinished file, which takes the place of the one at `path` when the block ends well.

    It is then on disk, and has the permissions of the file that it replaces. A link stays one: what it leads to is
    replaced. What is no file, such as a pipe or /dev/stdout, is written as it is.

    Args:
        overwrite: replace a file that is at `path`.
        lasts: wait until it is on disk: milliseconds, for what must be there after a power cut.

    Raises:
        FileExistsError: a file is there that is not to be replaced, also if it came there meanwhile.
        OSError: it cannot be written.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        yield path
        return
    file = _resolved(path)
    if not overwrite and file.exists():  # before minutes of writing, not only after
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    with unfinished_file(file) as unfinished:
        usual = permissions(unfinished)
        if file.exists():  # what not everybody may read is not shown while it is written
            unfinished.chmod(permissions(file) | _OWN)
        yield unfinished
        settle_file(unfinished, file, usual, lasts=lasts)
        if overwrite:
            unfinished.replace(file)
        else:
            _publish(unfinished, file)
    if lasts:
        settle_names(file.parent)


def write_whole(path: Path, content: str | bytes, *, lasts: bool = True) -> None:
    """Makes or replaces a file of bytes, or of text in UTF-8, and the folders above it.

    Args:
        lasts: as `whole`.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole(path, lasts=lasts) as unfinished:
            if isinstance(content, str):
                unfinished.write_text(content, encoding="utf-8")
            else:
                unfinished.write_bytes(content)
    except OSError as error:
        if error.filename is None:  # of the write itself, which names no file
            error.filename = str(path)
        raise


def why_not(path: Path) -> str | None:
    """Why a file cannot be written there, to be told before long work; None if nothing speaks against it."""
    if path.is_dir():
        return f"{path} is a folder; name a file in it"
    if path.exists() and not path.is_file():
        return None if os.access(path, os.W_OK) else f"{path} may not be written"
    return _why_nothing_in(path)


def why_no_folder(path: Path) -> str | None:
    """The same of a folder, which is made beside its place."""
    return f"{path} is a file" if path.is_file() else _why_nothing_in(path)


def why_not_in(folder: Path) -> str | None:
    """Why nothing can be made in a folder that is there, which only trying tells: of /proc nobody's rights do."""
    refused = f"{folder} is no folder that may be written"
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return refused
    probe = folder / f".probe.{mark()}.part"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return refused if error.errno in _REFUSED else f"{folder}: {error.strerror}"
    return None


def _why_nothing_in(path: Path) -> str | None:
    """Why nothing can be made in the folder that a path leads to, or in the nearest one above that is there."""
    try:
        parents = _resolved(path).absolute().parents
        existing = next(folder for folder in parents if folder.exists())
    except OSError as error:
        return f"{path}: {error.strerror}"
    return why_not_in(existing)


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError:  # of Python below 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None


def _publish(unfinished: Path, file: Path) -> None:
    """Gives a file its name; FileExistsError if something has it."""
    try:
        file.hardlink_to(unfinished)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with file.open("xb"):
            pass
        unfinished.replace(file)
