"""Words that triples had before they were changed: answers that began before the change still say them.

The latents of a version stay in the pool until its last request has ended; its words are in the file, which has the
newest ones alone. So whoever changes a file that is served keeps the words here first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kblam.knowledge import KnowledgeBase, Triple
from kblam.strict_json import loads
from kblam.vllm.registry import folder_errors, write_in

# Of all changes that are kept: requests are answered in seconds, and who waits longer has read its words.
MOST_CHANGES, MOST_BYTES = 4096, 64 * 2**20
_ENDING = ".past.json"


class Past:
    """Of one engine: a small file for each change, in a folder that its processes share.

    Args:
        folder: of the engine.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}  # of what was written here, the oldest first
        self._read: dict[str, dict[int, tuple[int, Any]]] = {}

    def keep(self, base: KnowledgeBase, identities: Iterable[tuple[str, str]]) -> None:
        """Keeps what triples say now. Called before they are changed, by the one who changes the file.

        Args:
            identities: (name, property) of each; those that are not there need nothing.

        Raises:
            KblamError: the file cannot be read.
            EngineError: the folder cannot be written.
        """
        revision, standing = base.standing(identities)
        if not standing:
            return
        content = json.dumps({one: [since, triple.to_record()] for one, since, triple in standing})
        name = f"{_key(base)}.{revision:020d}{_ENDING}"
        write_in(self._folder, name, content)
        self._sizes[name] = len(content)
        with folder_errors(self._folder):
            while len(self._sizes) > MOST_CHANGES or sum(self._sizes.values()) > MOST_BYTES:
                oldest = next(iter(self._sizes))
                (self._folder / oldest).unlink(missing_ok=True)
                del self._sizes[oldest]

    def words(self, base: KnowledgeBase, ids: Iterable[int], revision: int) -> dict[int, Triple]:
        """What triples said at a revision, as far as it was kept; by id.

        Args:
            ids: of triples that were changed since.

        Raises:
            EngineError: the folder cannot be read.
        """
        wanted = set(ids)
        if not wanted:
            return {}
        with folder_errors(self._folder):
            return self._found(base, wanted, revision)

    def _found(self, base: KnowledgeBase, wanted: set[int], revision: int) -> dict[int, Triple]:
        found: dict[int, Triple] = {}
        names = {file.name for file in self._folder.glob(f"*{_ENDING}")}  # none where somebody tidied up
        self._read = {name: content for name, content in self._read.items() if name in names}
        own = _key(base)
        for name in sorted(names):
            key, at, *_ = name.split(".")
            if key != own or int(at) < revision or not wanted:
                continue
            content = self._content(name)
            for one in wanted & content.keys():
                since, record = content[one]
                if since <= revision:  # not of a change in between
                    found[one] = Triple.from_record(record)
            wanted -= found.keys()
        return found

    def _content(self, name: str) -> dict[int, tuple[int, Any]]:
        if name not in self._read:
            try:
                said = loads((self._folder / name).read_bytes())
            except FileNotFoundError:  # it was the oldest
                return {}
            self._read[name] = {int(one): (since, record) for one, (since, record) in said.items()}
        return self._read[name]


def _key(base: KnowledgeBase) -> str:
    """Of a file: revisions and ids count in one alone, and another may be put in its place."""
    return hashlib.sha256(f"{base.path}\0{base.store_id}".encode()).hexdigest()[:16]
