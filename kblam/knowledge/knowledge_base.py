"""The knowledge base: triples one can add, change, remove and find, each with its vectors."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

import numpy as np

from kblam.errors import EncoderError, EncoderMismatchError, StoreError
from kblam.knowledge.build import BuildReport, Remembered, apply, apply_in_batches, encode_ahead
from kblam.knowledge.connection import located, whole
from kblam.knowledge.embeddings import Changes, Embeddings
from kblam.knowledge.encoders import Encoder, Progress, load_recorded_encoder
from kblam.knowledge.encoders.checked import encoded
from kblam.knowledge.files import Duplicates, TripleFile
from kblam.knowledge.pieces import Pieces
from kblam.knowledge.records import as_triples
from kblam.knowledge.schema import is_blank
from kblam.knowledge.store import Store
from kblam.knowledge.target import check_base_target
from kblam.knowledge.triples import Triple

logger = logging.getLogger("kblam")

Triples = Iterable["Triple | Mapping[str, object]"]
_PIECE = 64  # triples that are encoded before others may go first


class KnowledgeBase:
    """Triples and their vectors in one file (or in memory), and the encoder that made the vectors.

    Make one with `create`, `open` or `from_triples`; close it, or use it in a `with` block. Every change is
    on disk when the call returns. Other processes may read the file meanwhile, and write in turn. Threads may
    share an object; it must not cross a fork.

        with KnowledgeBase.create("facts.kb", load_encoder("minilm")) as kb:
            kb.add(Triple("Amber Falcon", "capital", "Zirconia"))

    Attributes:
        mark: of this object alone. Revisions are compared only under one mark: two copies of a file count on alike.

    Raises (any method):
        StoreBusyError, StoreWriteError, StoreFormatError, StoreError: see `Store`.
    """

    def __init__(self, store: Store, encoder: Encoder | None = None, device: str | None = None) -> None:
        self._store = store
        self._encoder = encoder
        self._device = device
        self.mark = object()
        if not isinstance(store, Store):
            raise StoreError(
                f"a KnowledgeBase is made by create, open or from_triples; it was given {type(store).__name__}"
            )
        if encoder is not None:
            _check_encoder(store, encoder)

    @classmethod
    def create(cls, path: str | Path | None, encoder: Encoder, *, timeout: float = 30.0) -> KnowledgeBase:
        """Make a new knowledge base; None keeps it in memory.

        Args:
            path: where nothing is yet (an empty file counts as nothing).
            encoder: makes its vectors from now on.
            timeout: seconds to wait for another writer.

        Raises:
            StoreError: a knowledge base is there already.
            StoreFormatError: another file is there; it is left untouched.
            StoreWriteError: it cannot be written.
        """
        _check_is_encoder(encoder)
        store = Store.create(
            path,
            encoder_spec=encoder.spec,
            fingerprint=encoder.fingerprint,
            dimension=encoder.dimension,
            timeout=timeout,
        )
        return cls(store, encoder)

    @classmethod
    def open(
        cls,
        path: str | Path,
        encoder: Encoder | None = None,
        *,
        device: str | None = None,
        read_only: bool = False,
        timeout: float = 30.0,
    ) -> KnowledgeBase:
        """Open an existing knowledge base.

        Args:
            encoder: must be the one it was built with; None loads that one when a text must be encoded.
            device: where that one computes; None lets sentence-transformers choose.
            read_only: refuse every change; works in a folder that cannot be written.

        Raises:
            StoreError: there is none.
            StoreFormatError: the file is something else, damaged, or of a newer format; it is left untouched.
            EncoderMismatchError: it was built with another encoder.
        """
        store = Store.open(path, read_only=read_only, timeout=timeout)
        try:
            return cls(store, encoder, device)
        except BaseException:
            store.close()
            raise

    @classmethod
    def from_triples(cls, triples: Triples, encoder: Encoder) -> KnowledgeBase:
        """A knowledge base in memory."""
        kb = cls.create(None, encoder)
        kb.add(triples)
        return kb

    def close(self) -> None:
        """Release the file. Closing again does nothing."""
        self._store.close()

    def __enter__(self) -> KnowledgeBase:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> NoReturn:
        """A connection to a file has no copy."""
        raise StoreError(
            f"the knowledge base {self._store.name} cannot be copied or pickled; "
            + ("copy its triples" if self.path is None else "KnowledgeBase.open its path where it is needed")
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._store.name}, {self._store.info.encoder_spec})"

    # --- changing ----------------------------------------------------------------------------------------

    def wait_to_write(self) -> None:
        """Returns when no other process changes the file. A change waits by itself; this is for whoever stops its
        readers for one, and would stop them for the wait too.

        Raises:
            StoreBusyError: another process still does after `timeout` seconds.
            StoreWriteError: it was opened read-only.
        """
        self._store.wait_to_write()

    def encode_ahead(self, triples: Sequence[Triple]) -> Generator[None, None, Remembered]:
        """Encodes what `add` would of these triples, but for the last few, and writes nothing.

        It yields after each piece, so that others may go first, and returns the vectors for `add`.

        Raises:
            EncoderError, EmbeddingError: as `add`.
        """
        self._store.refuse_if_read_only()
        remembered = Remembered(self._store.info.dimension, most=2 * len(triples))
        for start in range(0, len(triples) - _PIECE, _PIECE):
            encode_ahead(self._store, self.encoder, triples[start : start + _PIECE], remembered)
            yield
        return remembered

    def add(
        self,
        triples: Triple | Mapping[str, object] | Triples,
        *,
        writing: AbstractContextManager[object] | None = None,
        remembered: Remembered | None = None,
    ) -> BuildReport:
        """Add triples, or replace those of the same (name, property): all of them, or none on an error.

        Args:
            triples: one or many, as `Triple` or as mappings with the fields of a file. If one identity is
                given twice, the later is kept. They are held in memory; `update` streams.
            writing: entered while the file is changed, but not for the encoding before: a lock of who must not see a
                change come in the middle of something.
            remembered: vectors that `encode_ahead` returned.

        Raises:
            TripleFormatError: a mapping is not a triple.
            EncoderError: encoding failed.
            EmbeddingError: the encoder returned NaN, infinity, or numbers beyond float16.
        """
        self._store.refuse_if_read_only()  # before minutes of encoding, not after
        many = [triples] if isinstance(triples, Triple | Mapping) else triples
        batch = list(as_triples(many, self._store.name))
        return self._told(apply(self._store, self.encoder, batch, remembered, writing)) if batch else BuildReport()

    def update(
        self, triples: Triples, *, batch_size: int = 256, progress: Progress | None = None, total: int | None = None
    ) -> BuildReport:
        """Add or replace any number of triples, `batch_size` a transaction.

        Committed batches stay if the process dies, and the same call then goes on from there.

        Args:
            progress: `progress(done, total)` in triples, after each transaction.
            total: for `progress`, when `triples` has no length; else it is told 0.

        Raises:
            as `add`; batches before the failing one stay.
        """
        self._store.refuse_if_read_only()  # before minutes of encoding, not after
        began = time.monotonic()
        done = apply_in_batches(
            self._store, self.encoder, triples, batch_size=batch_size, progress=progress, total=total
        )
        return self._told(dataclasses.replace(done, seconds=time.monotonic() - began))

    def _told(self, report: BuildReport) -> BuildReport:
        if report.cut:
            logger.warning(
                "%s: %d of the triples are longer than the encoder %s reads; what comes after that has no part in "
                "their vectors: make several triples of them",
                self._store.name,
                report.cut,
                self._store.info.encoder_spec,
            )
        return report

    def remove(self, name: str, property: str | None = None) -> int:
        """Remove one triple, or all of a name; returns how many there were (0 is no error)."""
        return self._store.remove(name, property)

    # --- looking -----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._store.count()

    def __bool__(self) -> bool:
        return True  # an empty knowledge base is one, unlike None

    def triples(self) -> Iterator[Triple]:
        """All triples in the order they were added."""
        return self._store.triples()

    def triples_at(self, ids: Sequence[int] | np.ndarray) -> list[Triple]:
        """The triples with these ids (`Embeddings.ids`, `DeviceRows.ids`), in this order.

        Raises:
            StoreError: an id is not there.
        """
        return self._store.at([whole("an id", one) for one in ids])

    def triples_there(self, ids: Sequence[int]) -> dict[int, Triple]:
        """Of these ids those that are there, with their triples, from one moment."""
        return self._store.there(ids)

    def standing(self, identities: Iterable[tuple[str, str]]) -> tuple[int, list[tuple[int, int, Triple]]]:
        """The revision, and of the (name, property)s that are there (id, revision of its last change, triple)."""
        return self._store.standing(identities)

    def find(self, name: str) -> list[Triple]:
        """All triples of exactly this name."""
        return self._store.find(name)

    def ids_of(self, names: Iterable[str], *, most: int) -> list[int]:
        """The ids of all triples of exactly these names, `most` of each at most."""
        return self._store.ids_of(names, most=most)

    def search(self, text: str, *, limit: int = 20, everywhere: bool = False) -> list[Triple]:
        """Triples whose name holds every word of `text`, in any case; the best first.

        Args:
            everywhere: look into properties and values too; what is found there comes after what is found by name.
        """
        return self._store.search(text, limit=limit, everywhere=everywhere)

    def distinct(self) -> tuple[int, int]:
        """How many different names, and how many different properties, its triples have."""
        return self._store.distinct()

    def properties(self, *, since: int = 0, most: int = 2000) -> list[str]:
        """Different properties of its triples, those with most triples first.

        Args:
            since: only of triples written after this revision.
            most: so many at most.
        """
        return self._store.properties(since=since, most=most)

    def names(self, *, since: int = 0) -> list[str]:
        """Different names of its triples; only of those written after the revision `since`."""
        return self._store.names(since=since)

    def has_removed(self, since: int) -> bool:
        """Whether triples were removed after this revision."""
        return self._store.has_removed(since)

    @property
    def has_checksums(self) -> bool:
        """False for a file that an older release wrote, until it is opened to be changed."""
        return self._store.info.checked

    def check(self) -> None:
        """Reads all of it; `kblam kb check` on the command line.

        Raises:
            StoreFormatError: it is damaged; the message says where.
        """
        self._store.check()

    def copy_to(self, path: str | Path) -> None:
        """Writes all of it, as it is now, to a new file; nothing is encoded again.

        Raises:
            StoreError: something is there already, it cannot be written, or the knowledge base was moved or replaced.
        """
        self._store.copy_to(path)

    # --- vectors -----------------------------------------------------------------------------------------

    def embeddings(self) -> Embeddings:
        """All vectors, from one moment: ids (M,) int64, key and value (M, P) float16."""
        return self._store.embeddings()

    def changes_since(self, revision: int) -> Changes:
        """What was written and removed after `revision`; 0 gives everything.

        Raises:
            StoreError: `revision` is ahead of this knowledge base, so it belongs to another one.
        """
        return self._store.changes_since(whole("revision", revision))

    def pieces_since(self, revision: int) -> AbstractContextManager[Pieces]:
        """As `changes_since`, for a block that reads the vectors a piece at a time; other threads wait meanwhile.

        Raises:
            StoreError: as `changes_since`.
        """
        return self._store.pieces_since(whole("revision", revision))

    def changed_since(self, revision: int) -> frozenset[int]:
        """Ids of the triples that were written or removed after `revision`; their vectors are not read.

        Raises:
            StoreError: as `changes_since`.
        """
        with self.pieces_since(revision) as pieces:
            return frozenset((*pieces.ids.tolist(), *pieces.removed.tolist()))

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> np.ndarray:
        """(len(texts), P) float32 vectors of this knowledge base's encoder.

        Raises:
            EncoderError: the encoder cannot be loaded, fails, or gives what is no vector of each text.
        """
        return encoded(self.encoder, texts, progress=progress)

    @property
    def encoder(self) -> Encoder:
        """The encoder it was built with; loaded when first asked for.

        Raises:
            EncoderUnavailableError: it cannot be loaded here; `open` takes one made by hand.
            EncoderMismatchError: the encoder found under its name now gives other vectors.
        """
        if self._encoder is None:
            encoder = load_recorded_encoder(self._store.info.encoder_spec, self._device)
            _check_encoder(self._store, encoder)
            self._encoder = encoder
        return self._encoder

    # --- facts about it ----------------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """The file; None in memory."""
        return self._store.path

    @property
    def read_only(self) -> bool:
        return self._store.read_only

    @property
    def store_id(self) -> str:
        """Of the knowledge base, other for one made again at the same path; a file that was copied keeps it."""
        return self._store.info.store_id

    @property
    def revision(self) -> int:
        """Rises with every transaction that changed something."""
        return self._store.revision

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the encoder it was built with."""
        return self._store.info.fingerprint

    @property
    def encoder_spec(self) -> str:
        """The spec that `load_encoder` takes for the encoder it was built with."""
        return self._store.info.encoder_spec

    @property
    def dimension(self) -> int:
        """P, the length of a vector."""
        return self._store.info.dimension


def build(
    path: str | Path,
    triples: str | Path | Triples,
    encoder: Encoder,
    *,
    batch_size: int = 256,
    duplicates: Duplicates = "error",
    progress: Progress | None = None,
) -> BuildReport:
    """Make a knowledge base from triples, or bring an existing one up to date with them.

    Only texts that are new or changed are encoded, and each batch is committed, so an interrupted build goes
    on where it stopped when it is run again. Stored triples that are not in the input stay.

    Args:
        path: the knowledge base file; made when nothing is there.
        triples: a file of them (read whole once before anything is written, so that a bad line costs nothing; a
            `TripleFile` has been read with other options than these), or an iterable.
        encoder: must be the one an existing file was built with.
        batch_size: triples a transaction; an interruption loses at most one transaction.
        duplicates: for a file: see `read_triples`. In an iterable the later is kept.
        progress: `progress(done, total)` in triples, after each transaction; total is 0 for an iterable
            without a length.

    Raises:
        StoreFormatError, StoreWriteError: the file cannot be a knowledge base that is written.
        TripleFormatError, EncoderError, EmbeddingError, StoreError: see `KnowledgeBase`.
    """
    check_base_target(path)
    if isinstance(triples, str | Path):
        triples = TripleFile(triples, duplicates=duplicates)
    with _open_or_create(path, encoder) as kb:
        return kb.update(triples, batch_size=batch_size, progress=progress)


def _open_or_create(path: str | Path, encoder: Encoder) -> KnowledgeBase:
    if is_blank(located(path)):
        try:
            return KnowledgeBase.create(path, encoder)
        except StoreError:
            # Another process may have made it meanwhile.
            if is_blank(located(path)):
                raise
    return KnowledgeBase.open(path, encoder)


def _check_is_encoder(encoder: object) -> None:
    if isinstance(encoder, str) or not callable(getattr(encoder, "encode", None)):
        named = repr(encoder) if isinstance(encoder, str) else '"minilm"'
        raise EncoderError(f"an encoder is needed, got {type(encoder).__name__}: load_encoder({named}) makes one")


def _check_encoder(store: Store, encoder: Encoder) -> None:
    _check_is_encoder(encoder)
    if encoder.fingerprint != store.info.fingerprint:
        if encoder.spec == store.info.encoder_spec:
            fix = "its weights, settings or tokenizer changed, or an earlier kblam named it by its weights alone"
        else:
            fix = "use that encoder"
        raise EncoderMismatchError(
            f"{store.name} was built with {store.info.encoder_spec} ({store.info.fingerprint}), not with "
            f"{encoder.spec} ({encoder.fingerprint}): {fix}; or build a new file with this one"
        )
