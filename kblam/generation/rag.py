"""RAG: a model answers from facts that stand in its prompt, those whose keys are nearest to the question.

What knowledge tokens are compared with, in `kblam eval --baselines rag` and beside them in `kblam serve --rag`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kblam.adapter.sentences import Fact
from kblam.errors import StoreError
from kblam.knowledge import KnowledgeBase, Triple
from kblam.knowledge.asking import asked_in
from kblam.knowledge.cosine import normalised
from kblam.knowledge.triples import key_text
from kblam.models.chat_template import chat_template_of, filled

NEAREST = 5
WITH_FACTS = (
    "Answer the question from these facts only, in one sentence that gives the value exactly as it is written. "
    "If they do not say, answer: {refusal}\n\nFacts:\n{facts}"
)
_ALONE = "Answer the question in one sentence. If you do not know, answer: {refusal}"
# What the authors of BGE put before a question, and never before what is searched. Their models do not carry it, so it
# is known by their names, also where a folder or a server has them; bge-m3 takes none.
_INSTRUCTIONS = {
    "en": "Represent this sentence for searching relevant passages: ",
    "zh": "为这个句子生成表示以用于检索相关文章：",
}
_BGE = re.compile(r"(?<![a-z0-9])bge-(?:small|base|large)-(en|zh)(?![a-z0-9])", re.IGNORECASE)

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def prompt_ids(tokenizer: Any, question: str, facts: Sequence[Fact] | None, refusal: str) -> list[int]:
    """Token ids of a prompt: the facts first, then the question, in the tokenizer's chat template if it has one.

    Args:
        facts: of a base, which may have none; None asks the model alone.
        refusal: what it is told to say where the facts do not answer.

    Raises:
        GenerationError: the chat template cannot be used.
    """
    if facts is not None:
        lines = "\n".join(f"- {key_text(name, prop)}: {value}" for name, prop, value in facts) or "- none"
        told = WITH_FACTS.format(refusal=refusal, facts=lines)
    else:
        told = _ALONE.format(refusal=refusal)
    if (chat := chat_template_of(tokenizer, with_system=True)) is None:
        return list(tokenizer(f"{told}\n\nQuestion: {question}\nAnswer:")["input_ids"])
    return list(tokenizer(filled(chat, question, told), add_special_tokens=False)["input_ids"])


def instruction_of(encoder_spec: str) -> str:
    """What stands before a question when this encoder searches with it; "" for all encoders but BGE's.

    Args:
        encoder_spec: as `load_encoder` takes it.
    """
    named = _BGE.search(encoder_spec)
    return _INSTRUCTIONS[named[1].lower()] if named else ""


class Index:
    """Exact search by cosine; by FAISS where it is installed, else by numpy. Both find the same.

    Args:
        keys: (M, P), any floating dtype; a float32 copy is kept.
    """

    def __init__(self, keys: np.ndarray) -> None:
        self._size = len(keys)
        own = normalised(keys)
        self._search: Search = _in_faiss(own) or (lambda query, count: _in_numpy(own, query, count))

    def __call__(self, query: np.ndarray, count: int = NEAREST) -> list[tuple[int, float]]:
        """The nearest rows to a query (P,), the nearest first, with their cosines."""
        if not self._size:
            return []
        cosines, rows = self._search(normalised(query[None])[0], min(count, self._size))
        return [(int(row), float(cosine)) for row, cosine in zip(rows, cosines, strict=True)]


@dataclass(frozen=True)
class Retrieved:
    """A triple that stood in a prompt.

    Args:
        triple: what it says.
        cosine: of its key's vector with the question's.
    """

    triple: Triple
    cosine: float

    @property
    def fact(self) -> Fact:
        """As prompts take it."""
        return self.triple.name, self.triple.property, self.triple.value

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.triple.name,
            "property": self.triple.property,
            "value": self.triple.value,
            "cosine": round(self.cosine, 6),
            "sources": [source.to_record() for source in self.triple.sources],
        }


class Retriever:
    """Finds the triples of a knowledge base that are nearest to a question; threads may share it.

    The question has its encoder's instruction before it, see `instruction_of`. All key vectors are kept as float32
    (4 P bytes a triple), and read again when the knowledge base has changed.
    """

    def __init__(self, knowledge_base: KnowledgeBase) -> None:
        self._knowledge_base = knowledge_base
        self._instruction = instruction_of(knowledge_base.encoder_spec)
        self._lock = threading.Lock()
        self._read: tuple[Index, np.ndarray, int] | None = None
        self._now()

    def __call__(self, question: str, count: int = NEAREST) -> tuple[list[Retrieved], int]:
        """(the nearest triples, the nearest first; the revision of the knowledge base that was searched).

        Raises:
            EncoderUnavailableError: the encoder cannot be loaded.
            StoreError: the knowledge base cannot be read.
        """
        asked = asked_in(question, self._knowledge_base.encoder)
        query = self._knowledge_base.encode([self._instruction + asked])[0]
        while True:
            index, ids, revision = self._now()
            found = index(query, count)
            try:
                triples = self._knowledge_base.triples_at([ids[row] for row, _ in found])
            except StoreError:
                # Another process has removed one of them.
                if self._knowledge_base.revision == revision:
                    raise
                continue
            pairs = zip(triples, found, strict=True)
            return [Retrieved(triple, cosine) for triple, (_, cosine) in pairs], revision

    def _now(self) -> tuple[Index, np.ndarray, int]:
        with self._lock:
            if self._read is None or self._read[2] != self._knowledge_base.revision:
                self._read = None  # first, so that there is never room needed for two
                vectors = self._knowledge_base.embeddings()
                self._read = Index(vectors.key), vectors.ids, vectors.revision
            return self._read


def _in_faiss(keys: np.ndarray) -> Search | None:
    try:
        import faiss
    except ImportError:
        return None
    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(keys)

    def search(query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        cosines, rows = index.search(query[None], count)
        return cosines[0], rows[0]

    return search


def _in_numpy(keys: np.ndarray, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    cosines = keys @ query
    rows = np.argpartition(-cosines, count - 1)[:count]
    rows = rows[np.lexsort((rows, -cosines[rows]))]
    return cosines[rows], rows
