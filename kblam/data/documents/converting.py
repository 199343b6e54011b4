"""Makes Markdown of documents in a process beside this one, so that their time and memory have an end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

from kblam.errors import DocumentError, MissingPackageError
from kblam.extras import DISTRIBUTION
from kblam.strict_json import loads

SECONDS = 600  # of processor time
MEMORY = 4 * 2**30  # bytes beyond what importing takes
MOST_TEXT = 64 * 2**20  # characters
_EXTRAS = {"markitdown": "documents", "docling": "docling"}
_PROCESS = Path(__file__).with_name("convert_process.py")
_SAID = 10_000  # bytes of a process's last words


class Converter:
    """The process, started for the first document and used for the others; a context manager that ends it.

    Each document is read by a child of that process, or by a process of its own where there are no such children. One
    that crashes costs the others nothing, and one that takes too long a new start.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._said: IO[bytes] | None = None
        self._before = 0  # what was said of earlier documents

    def __enter__(self) -> Converter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def convert(self, file: Path, kind: str, reader: str) -> list[str]:
        """The text of each page; of a document without pages, one.

        Args:
            kind: the suffix, in small letters.
            reader: "markitdown" or "docling".

        Raises:
            DocumentError: it is damaged or encrypted, or takes too long or too much memory.
            MissingPackageError: the reader is not installed.
        """
        job = {
            "file": str(file.resolve()),
            "kind": kind,
            "reader": reader,
            "path": sys.path,
            "seconds": SECONDS,
            "memory": MEMORY,
            "most": MOST_TEXT,
        }
        answer, status = self._asked(job)
        if status is _TOO_LONG:
            raise DocumentError(f"{file}: {reader} took more than {2 * SECONDS:,} seconds; split it")
        try:
            told = loads(answer)
        except ValueError:
            told = {"died": status}
        if "died" in told:  # its last words are on stderr
            said = self._last_words()
            why = "it took too long" if told["died"] in (-24, -9) else said[-1][:200] if said else "it crashed"
            if status is not None:
                self.close()
            raise DocumentError(f"{file}: {reader} cannot read it: {why}")
        if "missing" in told:
            raise MissingPackageError(
                f"{file}: {reader} reads it, and the package {told['missing']} is not installed; "
                f"pip install '{DISTRIBUTION}[{_EXTRAS[reader]}]'",
                name=told["missing"],
            )
        if "error" in told:
            raise DocumentError(f"{file}: {reader} cannot read it: {told['error']}")
        return [str(page) for page in told["pages"]]

    def close(self) -> None:
        """Ends the process, and whatever it is reading."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # of a job that it did not take
                    pipe.close()  # type: ignore[union-attr]
            process.wait()
        if self._said is not None:
            self._said.close()
            self._said = None

    def _asked(self, job: dict[str, object]) -> tuple[str, int | None]:
        """What the process answers, "" where it ended, and how it did."""
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes it)
            self._process = subprocess.Popen(
                [sys.executable, str(_PROCESS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                start_new_session=True,
            )
        assert self._said is not None
        self._before = self._said.seek(0, os.SEEK_END)
        process, is_late = self._process, threading.Event()

        def end() -> None:
            is_late.set()
            _end(process)

        deadline = threading.Timer(2 * SECONDS, end)
        deadline.daemon = True
        deadline.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(OSError):  # it ended meanwhile, which the answer tells
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()
            answer = process.stdout.readline()
        except BaseException:
            self.close()
            raise
        finally:
            deadline.cancel()
        if is_late.is_set():
            self.close()
            return "", _TOO_LONG
        status = None if answer else process.wait()
        if not hasattr(os, "fork") and answer:  # it does one job
            self.close()
        return answer, status

    def _last_words(self) -> list[str]:
        if self._said is None:
            return []
        end = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(self._before, end - _SAID))
        return self._said.read().decode("utf-8", "replace").strip().splitlines()


_TOO_LONG = 1000  # in the place of a status, which is smaller


def _end(process: subprocess.Popen[str]) -> None:
    """Kills a process with its children, unless it has ended."""
    if process.poll() is not None:
        return
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
