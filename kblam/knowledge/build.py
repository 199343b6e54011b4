"""Updates a store from a list of triples, encoding only what changed."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

import numpy as np

from kblam.errors import EmbeddingError
from kblam.knowledge.connection import whole
from kblam.knowledge.encoders.base import Encoder, LimitedEncoder, Progress
from kblam.knowledge.records import as_triples
from kblam.knowledge.store import Store
from kblam.knowledge.triples import Triple

# For MiniLM's vectors, 43,000 texts.
_REMEMBERED_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What an update did.

    Attributes:
        added: triples that were not there.
        updated: triples whose text, example question or answer changed.
        unchanged: triples that were there word for word; they cost no encoding.
        seconds: wall time.
        cut: triples among those encoded whose key text or value is longer than the encoder reads. The rest of such a
            text has no part in its vector.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    seconds: float = 0.0
    cut: int = 0

    @property
    def total(self) -> int:
        return self.added + self.updated + self.unchanged

    def __add__(self, other: BuildReport) -> BuildReport:
        return BuildReport(
            self.added + other.added,
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.seconds + other.seconds,
            self.cut + other.cut,
        )


def apply_in_batches(
    store: Store,
    encoder: Encoder,
    triples: Iterable[Triple | Mapping[str, object]],
    *,
    batch_size: int,
    progress: Progress | None,
    total: int | None = None,
) -> BuildReport:
    """Apply triples, `batch_size` a transaction: committed batches stay if the process dies.

    A second run with the same triples skips those that are stored, so an interrupted build goes on where it stopped.
    `progress(done, total)` counts triples; total is 0 when it is not known beforehand.
    """
    known = total if total is not None else len(triples) if isinstance(triples, Sized) else 0
    source = as_triples(triples, store.name)
    report, remembered = BuildReport(), Remembered(store.info.dimension)
    while batch := list(islice(source, max(1, whole("batch_size", batch_size)))):
        report += apply(store, encoder, batch, remembered)
        if progress is not None:
            progress(report.total, known)
    return report


class Remembered:
    """Vectors of the texts that were encoded last, so that a text of an earlier batch is not encoded again.

    Args:
        dimension: of the vectors.
        most: texts; None keeps 64 MiB of vectors.
    """

    def __init__(self, dimension: int, most: int | None = None) -> None:
        self._vectors: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._most = max(1, _REMEMBERED_BYTES // (4 * dimension)) if most is None else most

    def get(self, text: str) -> np.ndarray | None:
        """The vector of a text, if it is remembered."""
        key = _digest(text)
        if key in self._vectors:
            self._vectors.move_to_end(key)
        return self._vectors.get(key)

    def keep(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Remembers new vectors in the place of those that were not asked for the longest."""
        for text, vector in zip(texts, vectors, strict=True):
            self._vectors[_digest(text)] = vector.copy()
        while len(self._vectors) > self._most:
            self._vectors.popitem(last=False)


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def apply(
    store: Store,
    encoder: Encoder,
    batch: Sequence[Triple],
    remembered: Remembered | None = None,
    writing: AbstractContextManager[object] | None = None,
) -> BuildReport:
    """Apply triples in one transaction after encoding those whose texts changed.

    If one identity is given twice, the later is kept, and the earlier counts as unchanged.

    Args:
        remembered: texts of earlier calls, which are not encoded again.
        writing: entered for the transaction, and not for the encoding before it.

    Raises:
        EmbeddingError: the encoder returned something that cannot be stored; nothing was written.
    """
    began = time.monotonic()
    to_encode, to_annotate = _changed(store, batch)
    added, updated, cut = 0, 0, 0
    key = value = np.empty((0, store.info.dimension), np.float32)
    if to_encode:
        cut = _count_cut(encoder, to_encode)
        key, value = encode_triples(encoder, to_encode, store.info.dimension, remembered)
    if to_encode or to_annotate:
        with writing or nullcontext():
            added, updated = store.upsert(to_encode, key, value, to_annotate)
    return BuildReport(added, updated, len(batch) - added - updated, time.monotonic() - began, cut)


def encode_ahead(store: Store, encoder: Encoder, batch: Sequence[Triple], remembered: Remembered) -> None:
    """Encodes what `apply` would of a batch, and writes nothing.

    Args:
        remembered: gets the vectors; give it to `apply`.

    Raises:
        EmbeddingError: as `apply`.
    """
    to_encode, _ = _changed(store, batch)
    if to_encode:
        encode_triples(encoder, to_encode, store.info.dimension, remembered)


def _changed(store: Store, batch: Sequence[Triple]) -> tuple[list[Triple], list[tuple[Triple, Triple]]]:
    """The triples of a batch whose texts are new, and (old, new) of those that change in what is not encoded."""
    latest = {triple.identity: triple for triple in batch}
    stored = store.get(latest)
    to_encode: list[Triple] = []
    to_annotate: list[tuple[Triple, Triple]] = []
    for identity, triple in latest.items():
        old = stored.get(identity)
        if old == triple:
            continue
        if old is not None and (old.key_text, old.value_text) == (triple.key_text, triple.value_text):
            to_annotate.append((old, triple))
        else:
            to_encode.append(triple)
    return to_encode, to_annotate


def _count_cut(encoder: Encoder, triples: Sequence[Triple]) -> int:
    """How many of these have a text that the encoder reads only the beginning of, where it can tell."""
    if not isinstance(encoder, LimitedEncoder):
        return 0
    texts = [text for triple in triples for text in (triple.key_text, triple.value_text)]
    return len({row // 2 for row in encoder.beyond_limit(texts)})


def encode_triples(
    encoder: Encoder, triples: Sequence[Triple], dimension: int, remembered: Remembered | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Key and value vectors, (len(triples), P) float32 each; a text that occurs twice is encoded once.

    Args:
        remembered: texts of earlier calls, which are not encoded again.

    Raises:
        EmbeddingError: the encoder returned another shape.
    """
    texts = [triple.key_text for triple in triples] + [triple.value_text for triple in triples]
    vector_of: dict[str, np.ndarray] = {}
    if remembered is not None:
        vector_of = {text: known for text in texts if (known := remembered.get(text)) is not None}
    new = [text for text in dict.fromkeys(texts) if text not in vector_of]
    if new:
        made = np.asarray(encoder.encode(new))
        if made.shape != (len(new), dimension):
            raise EmbeddingError(
                f"the encoder {encoder.fingerprint} returned shape {made.shape} for {len(new)} texts, "
                f"expected {(len(new), dimension)}"
            )
        vector_of.update(zip(new, made, strict=True))
        if remembered is not None:
            remembered.keep(new, made)
    vectors = np.stack([vector_of[text] for text in texts])
    return vectors[: len(triples)], vectors[len(triples) :]
