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
        may_end_early: whether the front end may end the request by itself, at a stop string: then every piece of the
            output has the evidence so far, since none is known to be the last.
    """

    def __init__(self, base: str, loaded: Loaded, most: int, may_end_early: bool) -> None:
        self.base, self.loaded, self.may_end_early = base, loaded, may_end_early
        self._most = most
        self._peak: dict[int, float] = {}
        self._words: dict[int, dict[str, Any]] = {}

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
                self._read([triple for triple, _ in best if triple not in self._words])
                said["evidence"] = [{**self._words[triple], "mass": mass} for triple, mass in best]
            except KblamError as error:  # raised, it would end the engine
                said["error"] = str(error)
        return said

    def _read(self, triples: list[int]) -> None:
        if not triples:
            return
        base = _opened(self.loaded.path, self.loaded.generation)
        # What the file says now of a triple that has changed is not what the answer was made from.
        changes = base.changes_since(self.loaded.revision) if base.revision != self.loaded.revision else None
        changed = set() if changes is None else {*changes.upserted.ids.tolist(), *changes.removed.tolist()}
        kept = [triple for triple in triples if triple not in changed]
        for triple in triples:
            self._words[triple] = {"name": None, "property": None, "value": None, "changed": True}
        for triple, words in zip(kept, base.triples_at(kept), strict=True):
            self._words[triple] = {"name": words.name, "property": words.property, "value": words.value}


@functools.lru_cache(maxsize=64)
def _opened(path: str, generation: int) -> KnowledgeBase:
    """A file, opened anew for each version: another may have been put in its place."""
    return KnowledgeBase.open(path, read_only=True)
