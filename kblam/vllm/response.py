"""What a response says of the knowledge that it was made from."""

from __future__ import annotations

import functools
from typing import Any

from kblam.errors import KblamError
from kblam.knowledge import KnowledgeBase
from kblam.vllm.registry import Loaded


class Response:
    """Evidence of one request, collected over its tokens.

    Args:
        base: name of the knowledge base.
        loaded: the version that the request attends to.
        most: how many triples the response has at most; 0 has none.
    """

    def __init__(self, base: str, loaded: Loaded, most: int) -> None:
        self.base, self.loaded, self._most = base, loaded, most
        self._peak: dict[int, float] = {}

    def add(self, found: list[tuple[int, float]]) -> None:
        """Ids of triples and masses at one token: the largest of each is kept, as `Evidence.mass` is."""
        for triple, mass in found:
            self._peak[triple] = max(mass, self._peak.get(triple, 0.0))

    def said(self) -> dict[str, Any]:
        """Plain values for JSON. Where the file of the base is gone, an "error" in place of words."""
        said: dict[str, Any] = {"knowledge_base": self.base, "revision": self.loaded.revision}
        if self._most:
            best = sorted(self._peak.items(), key=lambda item: -item[1])[: self._most]
            try:
                said["evidence"] = _words(self.loaded, best)
            except KblamError as error:  # raised, it would end the engine
                said["error"] = str(error)
        return said


def _words(loaded: Loaded, best: list[tuple[int, float]]) -> list[dict[str, Any]]:
    base = _opened(loaded.path, loaded.generation)
    # What the file says now of a triple that has changed is not what the answer was made from.
    changes = base.changes_since(loaded.revision) if base.revision != loaded.revision else None
    changed = set() if changes is None else {*changes.upserted.ids.tolist(), *changes.removed.tolist()}
    kept = [triple for triple, _ in best if triple not in changed]
    words = dict(zip(kept, base.triples_at(kept), strict=True))
    said: list[dict[str, Any]] = []
    for triple, mass in best:
        one = words.get(triple)
        if one is None:
            said.append({"name": None, "property": None, "value": None, "mass": mass, "changed": True})
        else:
            said.append({"name": one.name, "property": one.property, "value": one.value, "mass": mass})
    return said


@functools.lru_cache(maxsize=64)
def _opened(path: str, generation: int) -> KnowledgeBase:
    """A file, opened anew for each version: another may have been put in its place."""
    return KnowledgeBase.open(path, read_only=True)
