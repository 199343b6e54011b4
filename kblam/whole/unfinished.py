"""What is unfinished lies beside its place, under a lock that ends with the process.

So who writes there next can tell what a killed call left from what another one is writing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows; what a killed process left is then not removed
    fcntl = None  # type: ignore[assignment]

_MARK = r"\d+-[0-9a-f]{8}"
_LOCK, _PART = "lock", "part"
HELD = (errno.EWOULDBLOCK, errno.EACCES)  # of a lock that another one has


@contextlib.contextmanager
def unfinished_file(target: Path) -> Iterator[Path]:
    """A new empty file beside `target`, which goes at the end of the block; what killed calls left goes before.

    Another file has the lock: SQLite has locks of its own on a database, which do not go with others everywhere.

    Raises:
        OSError: it cannot be made; it names the target.
    """
    # The suffix stays: some writers look at it.
    name = target.stem
    for left in _left(target.parent, name, _LOCK):
        remove_unless_in_use(left, *_of_one_call(left))
    with contextlib.ExitStack() as stack:
        lock = _locked(target, name, _LOCK, stack)
        unfinished = lock.with_name(f"{lock.name.removesuffix(_LOCK)}{_PART}{target.suffix}")
        stack.callback(unfinished.unlink, missing_ok=True)
        try:
            unfinished.touch(exist_ok=False)
        except OSError as error:
            raise _of(target, error) from None
        yield unfinished


@contextlib.contextmanager
def unfinished_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, which goes at the end of the block; what killed calls left goes before.

    Raises:
        OSError: it cannot be made; it names the target.
    """
    for left in _left(target.parent, target.name, _PART):
        remove_unless_in_use(left)
    with contextlib.ExitStack() as stack:
        yield _locked(target, target.name, _PART, stack)


def mark() -> str:
    """Part of the name of what is unfinished: of one call, also among threads and containers that share a disk."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def beside(target: Path, ending: str) -> Path:
    """A hidden name beside a target, of this call alone."""
    return target.with_name(f".{target.name}.{mark()}.{ending}")


def left_beside(target: Path, ending: str) -> list[Path]:
    """What calls that were killed, or that go on, have `beside` a target."""
    return _left(target.parent, target.name, ending)


def _left(folder: Path, name: str, ending: str) -> list[Path]:
    """`.model.v2...` is of another target than `model`."""
    begin, ours = f".{name}.", re.compile(rf"{_MARK}\.{re.escape(ending)}")
    return [path for path in _named(folder, begin) if ours.fullmatch(path.name.removeprefix(begin))]


def _named(folder: Path, begin: str) -> list[Path]:
    try:
        with os.scandir(folder) as found:
            names = [entry.name for entry in found if entry.name.startswith(begin)]
    except OSError:  # there is no such folder, or it may not be read
        return []
    return sorted(folder / name for name in names)


def _of_one_call(lock: Path) -> list[Path]:
    """The unfinished file of a lock, and what SQLite has beside that."""
    return [path for path in _named(lock.parent, lock.name.removesuffix(_LOCK)) if path != lock]


def _locked(target: Path, name: str, ending: str, stack: contextlib.ExitStack) -> Path:
    """A new file or folder, locked and there until the stack is closed."""
    while True:
        path = target.with_name(f".{name}.{mark()}.{ending}")
        with contextlib.ExitStack() as made:
            try:
                if ending == _LOCK:
                    path.touch(exist_ok=False)
                else:
                    path.mkdir()
            except OSError as error:  # of /proc the same as where something is gone: to try again would not end
                raise _of(target, error) from None
            made.callback(_remove, path)
            try:
                if fcntl is not None:
                    made.callback(os.close, handle := os.open(path, os.O_RDONLY))
                    with contextlib.suppress(OSError):  # a file system without locks
                        fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno == errno.ENOENT and target.parent.is_dir():
                    continue  # another call removed it before it was locked
                raise _of(target, error) from None
            if path.exists():
                stack.enter_context(made.pop_all())
                return path


def _of(target: Path, error: OSError) -> OSError:
    """The error as one of the target: nobody knows the hidden name."""
    return OSError(error.errno, error.strerror, str(target))


def held(path: Path) -> int:
    """Makes a file and locks it until the handle that is returned is closed, or the process and its forks have ended.

    Raises:
        OSError: it is there, or cannot be made.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def in_use(path: Path) -> bool:
    """Whether somebody holds the lock of a file or folder; False also where nobody can tell."""
    if fcntl is None:
        return False
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # several may look at once
    except OSError as error:
        return error.errno in HELD
    finally:
        os.close(handle)
    return False


def others_write(target: Path, own: Path | None = None) -> bool:
    """Whether a call has an unfinished folder beside a target, another than `own`."""
    return any(in_use(left) for left in _left(target.parent, target.name, _PART) if left != own)


def remove_unless_in_use(path: Path, *others: Path) -> None:
    """Removes what has a lock at `path`, if it has one that nobody holds any more, and the others with it."""
    if fcntl is None:
        return
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for each in (*others, path):
            _remove(each)
    except OSError:
        return  # it is in use, or nobody can tell
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
