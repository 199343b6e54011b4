"""A folder that is there whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from kblam.errors import StoreWriteError
from kblam.whole import mark

try:
    import fcntl
except ImportError:  # not on Windows; what a killed process left is then not removed
    fcntl = None  # type: ignore[assignment]

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place at the end of the block, or goes away.

    The two change places in one step where the system can (Linux). Elsewhere the old one is moved away first; who is
    killed just then finds it back at its place with the next call. A link keeps pointing where it does.

    Raises:
        StoreWriteError: it cannot be written.
    """
    given, target = target, target.resolve()
    own = mark()
    fresh, old = (target.with_name(f".{target.name}.{own}.{ending}") for ending in ("part", "old"))
    try:
        restore(target)
        fresh.mkdir(parents=True)
        with _in_use(fresh):
            yield fresh
            if not target.exists():
                fresh.rename(target)
            elif not _exchange(fresh, target):
                target.rename(old)
                fresh.rename(target)
    # safetensors wraps the operating system's error in its own.
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreWriteError(
            f"cannot write the folder {given}: {reason}; check that its parent can be written and has space"
        ) from error
    finally:
        if old.exists() and not target.exists():  # stopped between the two renames
            old.rename(target)
        shutil.rmtree(fresh, ignore_errors=True)  # after an exchange, the old one
        shutil.rmtree(old, ignore_errors=True)


def restore(target: Path) -> None:
    """Puts back a folder whose replacement was killed between two renames, and removes what killed calls left."""
    for old in _left(target, "old"):
        if not target.exists():
            old.rename(target)
        else:
            shutil.rmtree(old, ignore_errors=True)
    for part in _left(target, "part"):
        if not _is_in_use(part):
            shutil.rmtree(part, ignore_errors=True)


def _left(target: Path, ending: str) -> list[Path]:
    """What killed calls left of this folder; `.model.v2...` is of another one than `model`."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.\d+-[0-9a-f]{{8}}\.{ending}")  # `mark` is between
    found = target.parent.iterdir() if target.parent.is_dir() else ()
    return sorted(path for path in found if ours.fullmatch(path.name))


@contextlib.contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """A lock on a folder that ends with the process."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_in_use(folder: Path) -> bool:
    if fcntl is None:
        return True
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


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
