"""What takes a place is on disk before it does, and may be read by those who could read what was there.

Without that a power cut can leave an empty file under the new name: the name is often written before the content.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

# What file systems say that cannot put a folder on disk, and what a folder says that may be written and not read.
_CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)
_PERMISSIONS = 0o777


def settle_file(file: Path, old: Path, usual: int, *, lasts: bool = True) -> None:
    """Gives a new file the permissions and the owner of the one that it replaces, and puts it on disk.

    Args:
        old: what is replaced, if it is there.
        usual: permissions of a file that replaces none.
        lasts: put it on disk; else only the permissions are its.

    Raises:
        OSError: the disk is full or fails.
    """
    with file.open("rb" if os.name == "posix" else "rb+") as written:
        _take_after(file, old, usual)
        if lasts:
            os.fsync(written.fileno())


def settle_folder(folder: Path, old: Path) -> None:
    """The same for all of a new folder. What a library made for this user alone is as readable as any other file.

    Raises:
        OSError: the disk is full or fails.
    """
    usual = _usual(folder)
    for place, _, names in os.walk(folder, topdown=False):
        here = old / os.path.relpath(place, folder)
        for name in names:
            file = Path(place, name)
            if not file.is_symlink():
                settle_file(file, here / name, usual | permissions(file))
        if here.is_dir():
            _take_after(Path(place), here, permissions(here))
        settle_names(Path(place))


def settle_names(folder: Path) -> None:
    """Puts the names of a folder on disk, where the file system can.

    Raises:
        OSError: the disk fails.
    """
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


def permissions(path: Path) -> int:
    """Who may read, write and run it."""
    return stat.S_IMODE(path.stat().st_mode) & _PERMISSIONS


def _usual(folder: Path) -> int:
    """What the umask leaves to a new file; it can be asked for only by setting it, which other threads would see."""
    probe = folder / ".permissions"
    probe.touch()
    try:
        return permissions(probe)
    finally:
        probe.unlink()


def _take_after(new: Path, old: Path, usual: int) -> None:
    try:
        found = old.stat()
    except OSError:
        found = None
    if found is not None and os.name == "posix":
        made = new.stat()
        if (made.st_uid, made.st_gid) != (found.st_uid, found.st_gid):
            with contextlib.suppress(OSError):  # only root may give a file away
                os.chown(new, found.st_uid, found.st_gid)
    wanted = usual if found is None else stat.S_IMODE(found.st_mode) & _PERMISSIONS
    if permissions(new) != wanted:
        new.chmod(wanted)
