"""An answer planned in tokens: what may be copied, and from which token on nothing is left to chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kblam.adapter import AdapterConfig
from kblam.adapter.sentences import Span
from kblam.errors import GenerationFailedError
from kblam.generation.answer import Copied
from kblam.generation.decision import Decision
from kblam.generation.wording import Wording, Wordings


@dataclass(frozen=True)
class Plan:
    """One row's answer.

    Args:
        decision: what is said, and from which triples.
        wording: its tokens; None where nothing is to be copied.
        tokens: those of the wording, and the end token.
        begun: for each token, whether a name, property or value has begun before it and goes on with it.
        settled: for each token, whether it belongs to a value whose name and property were said, or comes after one.
    """

    decision: Decision
    wording: Wording | None = None
    tokens: tuple[int, ...] = ()
    begun: tuple[bool, ...] = ()
    settled: tuple[bool, ...] = ()

    def followed(self, tokens: Sequence[int]) -> int:
        """How many tokens of an answer are the plan's."""
        pairs = zip(tokens, self.tokens, strict=False)
        return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(tokens), len(self.tokens)))

    def said(self, tokens: Sequence[int]) -> str:
        """The planned text that an answer's tokens have said, to the character, whatever the tokenizer leaves out."""
        if self.wording is None or self.decision.sentence is None:
            return ""
        count = min(self.followed(tokens), len(self.wording.tokens))
        if count == len(self.wording.tokens):
            return self.decision.sentence.text
        return self.decision.sentence.text[: self.wording.said(count)]

    def has_settled(self, tokens: Sequence[int]) -> bool:
        """Whether an answer has begun to say a planned value."""
        return any(self.settled[: self.followed(tokens)])

    def copied(self, length: int) -> tuple[Copied, ...]:
        """The stretches copied from triples within the first `length` characters; the last may be cut."""
        if self.decision.sentence is None:
            return ()
        return tuple(
            Copied(span.start, min(span.end, length), self.decision.facts[span.fact].triple, span.field)
            for span in self.decision.sentence.spans
            if span.start < length
        )


def plan(decision: Decision, prompt: Sequence[int], wordings: Wordings, end: int | None) -> Plan:
    """The plan of a decision.

    Args:
        decision: of one question.
        prompt: its token ids; only their end is looked at.
        wordings: of the model's tokenizer.
        end: the end token, or None if the model has none.

    Raises:
        GenerationFailedError: the tokenizer cannot write a sentence that has to be said.
    """
    last = () if end is None else (end,)
    if decision.is_base:
        return Plan(decision, None, last, (False,) * len(last), (True,) * len(last))
    if decision.sentence is None:
        return Plan(decision)
    wording = wordings.of(decision.sentence.text, prompt)
    if wording is None:
        if decision.is_forced:
            raise GenerationFailedError(
                f"this tokenizer cannot write {decision.sentence.text!r} without a control token; choose another "
                "refusal sentence in the adapter's config"
            )
        return Plan(decision)
    begun, settled = _certain(decision, wording)
    after = [decision.is_forced or (bool(settled) and settled[-1])] * len(last)
    return Plan(decision, wording, (*wording.tokens, *last), (*begun, *[False] * len(last)), (*settled, *after))


def refusal_tokens(config: AdapterConfig, prompt: Sequence[int], wordings: Wordings, end: int | None) -> list[int]:
    """The refusal sentence and the end token, as they follow a prompt, for a row that begins it by itself.

    Empty where there is none to be held to: without a pointer, a sentence or an end.
    """
    if not config.pointer or end is None or not config.refusal:
        return []
    wording = wordings.of(config.refusal, prompt)
    return [] if wording is None else [*wording.tokens, end]


def _certain(decision: Decision, wording: Wording) -> tuple[list[bool], list[bool]]:
    assert decision.sentence is not None
    fields: list[int | None] = []
    spans = decision.sentence.spans
    for start, end in zip(wording.starts, wording.ends, strict=True):
        fields.append(next((at for at, span in enumerate(spans) if start < span.end and end > span.start), None))
    begun = [at > 0 and field is not None and field == fields[at - 1] for at, field in enumerate(fields)]
    # By characters, since a tokenizer may have no token at all for a name or a value.
    since = 0 if decision.is_forced else _first_value(spans, len(decision.sentence.text) + 1)
    return begun, [decision.is_forced or end > since for end in wording.ends]


def _first_value(spans: Sequence[Span], never: int) -> int:
    """Where the first value begins whose name and property were said before it."""
    named: set[tuple[int, str]] = set()
    for span in spans:
        if span.field == "value" and {(span.fact, "name"), (span.fact, "property")} <= named:
            return span.start
        named.add((span.fact, span.field))
    return never
