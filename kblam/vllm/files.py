"""Knowledge base files as the scheduler reads them: the words of one version, and the judge of its triples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from kblam.adapter import KnowledgeAdapter
from kblam.errors import StoreReplacedError
from kblam.knowledge import KnowledgeBase, Triple
from kblam.knowledge.names import Names
from kblam.knowledge.vocabulary import Vocabulary, either
from kblam.models.judging import MOST_PROPERTIES, Judge
from kblam.vllm.past import Past
from kblam.vllm.registry import Loaded, file_at


class VersionWords:
    """The words of the triples of one version, each read once.

    A triple that was changed in the file since then says what it said before, if that was kept; else it has None, since
    what it says now is not what was attended to.

    Args:
        loaded: the version.
        past: what triples said before they were changed.
    """

    def __init__(self, loaded: Loaded, past: Past) -> None:
        self._loaded, self._past = loaded, past
        self._read: dict[int, Triple | None] = {}
        # At which revision of the file these were the changes.
        self._changed: tuple[int, frozenset[int]] = loaded.revision, frozenset()

    def of(self, ids: Iterable[int]) -> dict[int, Triple | None]:
        """By id.

        Raises:
            StoreError: the file cannot be read.
        """
        wanted = list(ids)
        new = [one for one in dict.fromkeys(wanted) if one not in self._read]
        if new:
            base = opened(self._loaded)
            words = base.triples_there(new)
            changed = self.changed()  # after the words, so that it has what came in between
            past = self._past.words(base, changed.intersection(new), self._loaded.revision)
            self._read |= {one: (past if one in changed else words).get(one) for one in new}
        return {one: self._read[one] for one in wanted}

    def changed(self) -> frozenset[int]:
        """Ids of triples that the file says otherwise by now, or has no more.

        Raises:
            StoreError: the file cannot be read.
        """
        base = opened(self._loaded)
        revision = base.revision
        if revision != self._changed[0]:
            self._changed = revision, base.changed_since(self._loaded.revision)
        return self._changed[1]


class _Following:
    """What follows each file from one version to the next, made anew where another file was put in its place.

    Args:
        bases: what the engine has, by name; of a file that is none of it any more nothing is kept.
    """

    def __init__(self, bases: Callable[[], Mapping[str, Loaded]]) -> None:
        self._bases = bases
        self._of: dict[str, tuple[Any, Loaded]] = {}  # by path

    def _newest(self, loaded: Loaded) -> Any:
        what, seen = self._of.get(loaded.path, (None, None))
        if seen is not None and seen.generation >= loaded.generation:
            return what
        # Revisions count in one file only.
        what = self._followed(what if seen is not None and seen.file == loaded.file else None, opened(loaded))
        paths = {one.path for one in self._bases().values()}
        self._of = {path: one for path, one in self._of.items() if path in paths} | {loaded.path: (what, loaded)}
        return what

    def _followed(self, before: Any, base: KnowledgeBase) -> Any:
        raise NotImplementedError


class Judges(_Following):
    """A judge for each file.

    Args:
        adapter: whose weights they use.
        encode: texts to (n, P) float32 vectors.
        bases: as `_Following` has them.
    """

    def __init__(
        self,
        adapter: KnowledgeAdapter,
        encode: Callable[[list[str]], Tensor],
        bases: Callable[[], Mapping[str, Loaded]],
    ) -> None:
        super().__init__(bases)
        self._adapter, self._encode = adapter, encode

    def of(self, loaded: Loaded) -> Judge | None:
        """The judge of a version; None where the adapter has no weights for one.

        Names and properties are those of the newest version that was asked for: a request that began with an older one
        is judged by them too.

        Raises:
            StoreError: the file cannot be read.
            EncoderError: its properties cannot be encoded.
        """
        found: Judge | None = None if self._adapter.config.confidence is None else self._newest(loaded)
        return found

    def _followed(self, before: Judge | None, base: KnowledgeBase) -> Judge:
        judge = Judge(self._adapter, self._encode) if before is None else before
        judge.follow(base)
        return judge


class BaseNames:
    """The names and properties of a knowledge base, for whoever needs no judge.

    Args:
        base: that has them.
    """

    def __init__(self, base: KnowledgeBase) -> None:
        self._names, self._properties, self._revision = Names(), dict[str, None](), 0
        self._vocabulary = Vocabulary()
        self.follow(base)

    def follow(self, base: KnowledgeBase) -> None:
        """Takes what has changed since."""
        now = base.revision
        # Other threads read meanwhile: they see the old names or the new ones, never none.
        is_less = base.has_removed(self._revision)
        names = self._names.as_now(base.names()) if is_less else self._names
        names.add(base.names(since=self._revision))
        since = 0 if is_less else self._revision
        more = dict.fromkeys(base.properties(since=since, most=MOST_PROPERTIES))
        if is_less or not self._properties.keys() >= more.keys():
            self._properties = more if is_less else {**self._properties, **more}
            self._vocabulary = Vocabulary(self._properties)
        self._names, self._revision = names, now

    def as_meant(self, text: str, background: tuple[str, ...] = ()) -> str:
        """As `Judge.as_meant`."""
        return self._names.as_meant(text, self.is_property, either(self.is_property, background))

    def says_a_name(self, text: str) -> bool:
        """As `Judge.says_a_name`."""
        return bool(self._names.said_in(text))

    def names_in(self, text: str) -> list[tuple[int, int]]:
        """As `Judge.names_in`."""
        return self._names.spans_in(text)

    def is_property(self, text: str) -> bool:
        """As `Judge.is_property`."""
        return text in self._vocabulary


class AllNames(_Following):
    """The names in each file."""

    def of(self, loaded: Loaded) -> BaseNames:
        """Of the newest version that was asked for.

        Raises:
            StoreError: the file cannot be read.
        """
        found: BaseNames = self._newest(loaded)
        return found

    def _followed(self, before: BaseNames | None, base: KnowledgeBase) -> BaseNames:
        if before is None:
            return BaseNames(base)
        before.follow(base)
        return before


@functools.lru_cache(maxsize=64)
def opened(loaded: Loaded) -> KnowledgeBase:
    """The file of a version.

    Raises:
        StoreError: it cannot be opened, or another one is in its place by now, whose triples are others.
    """
    base = KnowledgeBase.open(loaded.path, read_only=True)
    if file_at(loaded.path) != loaded.file:
        base.close()
        raise StoreReplacedError(
            f"{loaded.path} was removed, or replaced by another file, after the engine read it; load it again"
        )
    return base
