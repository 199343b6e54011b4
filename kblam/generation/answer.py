"""The answer to a question."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from kblam.generation.evidence import Evidence, evidence_record
from kblam.knowledge import Triple


@dataclass(frozen=True)
class Copied:
    """A stretch of an answer that was copied from a triple, letter by letter.

    Args:
        start, end: characters [start, end) of the answer's text.
        triple: where it comes from.
        field: which of its fields: "name", "property" or "value". The last may be cut by `max_new_tokens`.
    """

    start: int
    end: int
    triple: Triple
    field: str = "value"


@dataclass(frozen=True)
class Answer:
    """What the model said, and why.

    Args:
        text: the generated text, without special tokens. What was copied is in it to the last character, also where
            the tokenizer has no token for one.
        evidence: triples by attention mass, largest first, after those that the answer says; empty for an empty
            knowledge base or the base's answer.
        refused: whether the text is the adapter's refusal sentence; where that was decided, also if it is cut short.
        num_tokens: generated tokens, the end token included.
        copied: what the pointer copied, in the order of the text; empty without a pointer.
        knowledge_mass: the mass at the prompt's end of the triple that answers, or of the strongest; for a question
            about a whole entity or about two facts see docs/answers.md.
        confidence: the probability that what was found answers the question: of two facts the smaller one. It is what
            `known_above` is compared with; None where the adapter has no weights for it, and the mass is.
        from_base: whether the base model answered without any knowledge (`unknown="base"`).
        known: whether the question counted as known; None where no `known_above` decides.
        is_cut: whether the text ends because of `max_new_tokens` or `max_time`.
    """

    text: str
    evidence: tuple[Evidence, ...]
    refused: bool
    num_tokens: int
    copied: tuple[Copied, ...] = ()
    knowledge_mass: float = 0.0
    confidence: float | None = None
    from_base: bool = False
    is_cut: bool = False
    known: bool | None = None

    def basis(self) -> dict[str, Any]:
        """What it rests on, as plain values for JSON."""
        return {
            "refused": self.refused,
            "known": self.known,
            "confidence": self.confidence,
            "evidence": [evidence_record(one.triple, round(one.mass, 6), changed=one.changed) for one in self.evidence],
            "copied": [
                {
                    "start": one.start,
                    "end": one.end,
                    "field": one.field,
                    "name": one.triple.name,
                    "property": one.triple.property,
                }
                for one in self.copied
            ],
        }

    def judged_as(self, other: Answer) -> Answer:
        """The same answer, of the base model, with what its question was judged by."""
        return replace(self, knowledge_mass=other.knowledge_mass, confidence=other.confidence, known=False)


def is_refusal(text: str, refusal: str) -> bool:
    """Whether a text begins with the refusal sentence, ignoring case and the final stop."""
    sentence = _bare(refusal)
    return bool(sentence) and text.strip().lower().startswith(sentence)


def may_become_refusal(text: str, refusal: str) -> bool:
    """Whether a text is a beginning of the refusal sentence, and not yet all of it."""
    return _bare(refusal).startswith(text.strip().lower()) and not is_refusal(text, refusal)


def _bare(refusal: str) -> str:
    return refusal.strip().rstrip(".").strip().lower()
