"""The knowledge bases of an evaluation's rows: in memory, or files of a folder, which the next run opens again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kblam.counts import count_of
from kblam.data.quiz import Quiz
from kblam.errors import EvaluationError, StoreFormatError
from kblam.evaluation.loop import RememberingEncoder, triples_of
from kblam.knowledge import KnowledgeBase, build
from kblam.knowledge.encoders.base import Progress
from kblam.whole import why_no_folder, why_not_in

# Smaller bases are many (a row of 100 triples is up to fifty of them) and encoded in no time.
LEAST_KEPT = 1_000
_BATCH = 1_024  # triples a transaction: what an interruption loses


@dataclass(frozen=True)
class Bases:
    """Makes the knowledge bases of quizzes.

    Args:
        encoder: of the adapter.
        folder: those of at least `LEAST_KEPT` triples are files in it. A file is named after its encoder and facts, so
            one that is there is the right one, or the part of it that was encoded before a run was stopped.
            None keeps nothing.
    """

    encoder: RememberingEncoder
    folder: Path | None = None

    def encode(self, quizzes: Sequence[Quiz], progress: Progress | None = None) -> None:
        """Encodes all texts of a row that no file has, at once, which is quicker than base by base."""
        triples = [triple for quiz in quizzes if not self._is_kept(quiz) for triple in triples_of(quiz)]
        texts = [text for triple in triples for text in (triple.key_text, triple.value_text)]
        texts += [question.text for quiz in quizzes for question in quiz.questions]
        self.encoder.learn(texts, progress=progress)

    def open(self, quiz: Quiz, progress: Progress | None = None) -> KnowledgeBase:
        """The knowledge base of a quiz.

        Raises:
            EvaluationError: nothing can be kept in the folder, or the file in it holds further triples, is damaged, or
                is something else.
            StoreError: the file in it cannot be read or written.
        """
        file = self._file(quiz)
        if file is None:
            return KnowledgeBase.from_triples(triples_of(quiz), self.encoder)
        check_cache(file.parent)
        file.parent.mkdir(parents=True, exist_ok=True)
        triples = triples_of(quiz)
        try:
            build(file, triples, self.encoder.plain, batch_size=_BATCH, progress=progress)
            knowledge_base = KnowledgeBase.open(file, self.encoder, read_only=True)
        except StoreFormatError as error:
            raise EvaluationError(f"{file} cannot be used; remove it, and it is made again: {error}") from error
        # A fact that is given twice is one triple.
        held, wanted = len(knowledge_base), len({triple.identity for triple in triples})
        if held > wanted:
            knowledge_base.close()
            raise EvaluationError(
                f"{file} holds {count_of(held)}, and {count_of(wanted)} are asked about: something added to it; remove "
                "it, and it is made again"
            )
        return knowledge_base

    def recall(self, quizzes: Sequence[Quiz]) -> None:
        """Has the encoder know the texts of files, with the vectors that they hold, for what searches without them."""
        for quiz in quizzes:
            if (file := self._file(quiz)) is not None:
                with KnowledgeBase.open(file, self.encoder, read_only=True) as knowledge_base:
                    self.encoder.remember_all(knowledge_base)

    def _is_kept(self, quiz: Quiz) -> bool:
        return self.folder is not None and len(quiz.facts) >= LEAST_KEPT

    def _file(self, quiz: Quiz) -> Path | None:
        """Where a quiz's base is kept; None if it is not. Reads all facts, seconds for a million."""
        if self.folder is None or not self._is_kept(quiz):
            return None
        digest = hashlib.blake2b(self.encoder.fingerprint.encode(), digest_size=8)
        for triple in triples_of(quiz):
            digest.update(json.dumps([*triple.identity, triple.value, triple.key_text]).encode() + b"\n")
        return _place(self.folder) / f"{len(quiz.facts)}-{digest.hexdigest()}.kb"


def check_cache(folder: Path) -> None:
    """Before anything is measured.

    Raises:
        EvaluationError: nothing can be kept there.
    """
    place = _place(folder)
    reason = why_no_folder(place) or (why_not_in(place) if place.exists() else None)
    if reason is not None:
        raise EvaluationError(f"cannot keep knowledge bases in {folder}: {reason}")


def _place(folder: Path) -> Path:
    """The folder with `~` and links followed, as the files in it are opened."""
    try:
        return folder.expanduser().resolve()
    except RuntimeError as error:
        raise EvaluationError(f"cannot keep knowledge bases in {folder}: {error}") from error
