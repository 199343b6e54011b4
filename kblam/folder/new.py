"""A folder that is there whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from kblam.errors import StoreWriteError
from kblam.whole import why_no_folder
from kblam.whole.lasting import settle_folder, settle_names
from kblam.whole.unfinished import beside, left_beside, others_write, unfinished_folder

_CAME_THERE = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)  # a folder takes the place of an empty one alone
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextlib.contextmanager
def new_folder(target: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A folder beside `target` that takes its place at the end of the block, or goes away.

    The two change places in one step where the system can (Linux). Elsewhere the old one is moved away first; who is
    killed just then finds it back at its place with the next call. A link keeps pointing where it does. What takes the
    place is on disk, with the permissions that folder and files had there.

    Args:
        overwrite: replace a folder that is there at the end; else only an empty one.

    Raises:
        StoreWriteError: it cannot be written, or one came there that is not to be replaced.
    """
    given, target = target, target.resolve()
    old = beside(target, "old")
    try:
        restore(target)
        _make_parent(target)
        with unfinished_folder(target) as fresh:  # after an exchange, the old one
            yield fresh
            settle_folder(fresh, target)
            if not overwrite:
                _take(target, fresh, given)
            elif not target.exists():
                fresh.rename(target)
            elif not _exchange(fresh, target):
                target.rename(old)
                fresh.rename(target)
            settle_names(target.parent)
    # safetensors wraps the operating system's error in its own.
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreWriteError(
            f"cannot write the folder {given}: {reason}; check that its parent can be written and has space"
        ) from error
    finally:
        if old.exists() and not target.exists():  # stopped between the two renames
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)


def check_new_folder(target: Path) -> None:
    """Before long work: whether `new_folder` can write there.

    Raises:
        StoreWriteError: it cannot, or another command does now.
    """
    if (reason := why_no_folder(target)) is not None:
        raise StoreWriteError(f"cannot write the folder {target}: {reason}; choose another place")
    if others_write(target.resolve()):
        raise _in_use(target)


@contextlib.contextmanager
def sole_writer(target: Path) -> Iterator[None]:
    """Keeps other commands from a folder, which need not be there, until the block or this process ends.

    Raises:
        StoreWriteError: another command writes there, or nothing can be written there.
    """
    given, target = target, target.resolve()
    with contextlib.ExitStack() as stack:
        try:
            _make_parent(target)
            own = stack.enter_context(unfinished_folder(target))
        except OSError as error:
            raise StoreWriteError(f"cannot write the folder {given}: {error.strerror}; choose another place") from error
        if others_write(target, own):
            raise _in_use(given)
        yield


def _in_use(target: Path) -> StoreWriteError:
    return StoreWriteError(f"another command writes the folder {target} now; wait for its end, or choose another place")


def restore(target: Path) -> None:
    """Puts back a folder whose replacement was killed between two renames."""
    for old in left_beside(target, "old"):
        if not target.exists():
            old.rename(target)
        else:
            shutil.rmtree(old, ignore_errors=True)


def _make_parent(target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # a file: the words for it elsewhere
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from None


def _take(target: Path, fresh: Path, given: Path) -> None:
    try:
        fresh.rename(target)
    except OSError as error:
        if error.errno not in _CAME_THERE:
            raise
        raise StoreWriteError(
            f"cannot write the folder {given}: something has come there meanwhile, and stays; choose another place"
        ) from None


def _exchange(one: Path, other: Path) -> bool:
    """Lets two folders change places in one step; False where the system or the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # a C library before glibc 2.28
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))
