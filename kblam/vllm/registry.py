"""Which bases an engine has and which versions its requests use: two small files that its processes share.

vLLM lets a worker be told to load a base, and a scheduler be given requests, but not the two talk to each other. One
file is written by the first worker and read by the scheduler and the front end, the other the other way round, each as
a whole. Both writers are driven by one loop, so what was done first is seen first: a request that comes after an update
reads the new version, and an update spares what requests before it still need.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kblam.errors import EngineError
from kblam.strict_json import loads
from kblam.whole import write_whole
from kblam.whole.unfinished import beside, held, remove_unless_in_use

_BASES, _IN_USE, _LOCK = "bases.json", "in_use.json", "lock"
_FOLDER = "kblam-vllm-"


@dataclass(frozen=True)
class Loaded:
    """A version of a knowledge base in the pool.

    Args:
        revision: of the file, as the pool has it.
        generation: a number that no other version in this engine has had.
        triples: how many.
        path: of the file.
        file: which one it is, as `file_at` has it; another one may be put in its place.
        encoder: fingerprint of the encoder that it was built with.
    """

    revision: int
    generation: int
    triples: int
    path: str
    file: str
    encoder: str = ""


class Registry:
    """The files of one engine.

    Args:
        vllm_config: of the engine.
    """

    def __init__(self, vllm_config: Any) -> None:
        self.folder = folder_of(vllm_config)
        self._read: tuple[tuple[int, ...], dict[str, Loaded]] = (), {}

    def bases(self) -> dict[str, Loaded]:
        """What the workers have; nothing before they have loaded, and the last known where somebody tidied up.

        Raises:
            EngineError: as `folder_errors`.
        """
        path = self.folder / _BASES
        with folder_errors(self.folder):
            try:
                facts = path.stat()
                stamp = facts.st_ino, facts.st_mtime_ns, facts.st_size
                if stamp != self._read[0]:
                    self._read = stamp, {name: Loaded(**one) for name, one in loads(path.read_bytes()).items()}
            except FileNotFoundError:
                pass
        return self._read[1]

    def say_bases(self, bases: dict[str, Loaded]) -> None:
        """What the first worker has.

        Raises:
            EngineError: as `folder_errors`.
        """
        self._write(_BASES, {name: asdict(one) for name, one in bases.items()})

    def in_use(self) -> frozenset[int] | None:
        """Generations that unfinished requests attend to; None before the scheduler says so, or where somebody tidied
        up: it says so again when that changes.

        Raises:
            EngineError: as `folder_errors`.
        """
        with folder_errors(self.folder):
            try:
                return frozenset(loads((self.folder / _IN_USE).read_bytes()))
            except FileNotFoundError:
                return None

    def say_in_use(self, generations: frozenset[int]) -> None:
        """What the scheduler's requests attend to.

        Raises:
            EngineError: as `folder_errors`.
        """
        self._write(_IN_USE, sorted(generations))

    def _write(self, name: str, content: Any) -> None:
        write_in(self.folder, name, json.dumps(content))


@contextmanager
def folder_errors(folder: Path) -> Iterator[None]:
    """What the machine says of an engine's folder, as an error of the engine: no request can help it.

    Raised as it came, it would end the scheduler, and all requests with it.

    Raises:
        EngineError: it cannot be read or written; the message names it and the fix.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "make room there, or set TMPDIR to a folder that has some and start again"
        elif error.errno in (errno.EMFILE, errno.ENFILE):
            fix = "raise the limit of open files (ulimit -n) and start again"
        else:
            fix = "see that this user may read and write there, or set TMPDIR to another folder and start again"
        raise EngineError(
            f"the engine cannot use its folder for temporary files, {folder} ({error.strerror or error}); {fix}"
        ) from error


def write_in(folder: Path, name: str, content: str) -> None:
    """Makes or replaces a file in an engine's folder, and the folder where somebody tidied up.

    Raises:
        EngineError: as `folder_errors`.
    """
    with folder_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        write_whole(folder / name, content, lasts=False)  # it is of running processes


def file_at(path: str | Path) -> str:
    """Device and number of the file at a path; "" where there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return ""
    return f"{found.st_dev}.{found.st_ino}"


def folder_of(vllm_config: Any) -> Path:
    """Of an engine, the same in all of its processes."""
    return Path(tempfile.gettempdir()) / f"{_FOLDER}{vllm_config.instance_id}"


def open_folder(vllm_config: Any) -> Path:
    """Makes the folder of an engine, readable by this user alone; it goes with this process.

    A process that is killed leaves it; it then goes when this user starts the next engine. One without a lock stays:
    nobody can tell whether it is in use.

    Raises:
        EngineError: as `folder_errors`, of the folder that it would be in.
    """
    folder = folder_of(vllm_config)
    for left in folder.parent.glob(f"{_FOLDER}*"):
        if _is_own(left):
            remove_unless_in_use(left / _LOCK, left)
    unfinished = beside(folder, "part")  # nobody else sees it without its lock
    with folder_errors(folder.parent):
        try:
            unfinished.mkdir(mode=0o700)
            handle = held(unfinished / _LOCK)
            unfinished.rename(folder)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    maker = os.getpid()

    def remove() -> None:
        if os.getpid() == maker:  # not a worker that was forked from it
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)

    atexit.register(remove)
    return folder


def _is_own(folder: Path) -> bool:
    """Whether it is a folder of this user, and no link."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
