"""Makes Markdown of a document in a process of its own, so that its time and memory have an end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from kblam.errors import DocumentError, MissingPackageError
from kblam.extras import DISTRIBUTION
from kblam.strict_json import loads

SECONDS = 600  # of processor time
MEMORY = 4 * 2**30  # bytes beyond what importing takes
MOST_TEXT = 64 * 2**20  # characters
_EXTRAS = {"markitdown": "documents", "docling": "docling"}
_PROCESS = Path(__file__).with_name("convert_process.py")


def convert(file: Path, kind: str, reader: str) -> list[str]:
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
    try:
        done = subprocess.run(
            [sys.executable, str(_PROCESS)], input=json.dumps(job), capture_output=True, text=True, timeout=2 * SECONDS
        )
    except subprocess.TimeoutExpired:
        raise DocumentError(f"{file}: {reader} took more than {2 * SECONDS:,} seconds; split it") from None
    try:
        told = loads(done.stdout)
    except ValueError:  # it was killed, and its last words are on stderr
        said = done.stderr.strip().splitlines()
        why = "it took too long" if done.returncode in (-24, -9) else said[-1][:200] if said else "it crashed"
        raise DocumentError(f"{file}: {reader} cannot read it: {why}") from None
    if "missing" in told:
        raise MissingPackageError(
            f"{file}: {reader} reads it, and the package {told['missing']} is not installed; "
            f"pip install '{DISTRIBUTION}[{_EXTRAS[reader]}]'",
            name=told["missing"],
        )
    if "error" in told:
        raise DocumentError(f"{file}: {reader} cannot read it: {told['error']}")
    return [str(page) for page in told["pages"]]
