"""The answer to a question."""

from __future__ import annotations

from dataclasses import dataclass

from kblam.generation.evidence import Evidence


@dataclass(frozen=True)
class Answer:
    """What the model said, and why.

    Args:
        text: the generated text, without special tokens.
        evidence: triples by attention mass, largest first; empty for an empty knowledge base.
        refused: whether the text is the adapter's refusal sentence.
        num_tokens: generated tokens, the end token included.
    """

    text: str
    evidence: tuple[Evidence, ...]
    refused: bool
    num_tokens: int


def is_refusal(text: str, refusal: str) -> bool:
    """Whether a text begins with the refusal sentence, ignoring case and the final stop."""
    sentence = refusal.strip().rstrip(".").strip().lower()
    return bool(sentence) and text.strip().lower().startswith(sentence)
