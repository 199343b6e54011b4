"""From generated tokens to an answer: its text, what was copied, and what it rests on."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from kblam.generation.answer import Answer, is_refusal
from kblam.generation.decision import Decision
from kblam.generation.evidence import Evidence, EvidenceRecorder
from kblam.generation.options import Generating
from kblam.generation.plan import Plan
from kblam.generation.pointer import Pointer
from kblam.generation.prompt import TOKENIZING
from kblam.generation.words import Words


class Reader:
    """Reads the answers of one batch.

    Args:
        tokenizer: of the model.
        refusal: the adapter's refusal sentence.
        how: they were generated.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, refusal: str, how: Generating) -> None:
        self.tokenizer, self.refusal, self.how = tokenizer, refusal, how

    def answer(
        self,
        row: int,
        tokens: Sequence[int],
        recorder: EvidenceRecorder,
        words: Words,
        top: int,
        pointer: Pointer | None = None,
    ) -> Answer:
        """The answer of a row.

        Args:
            row: of the batch.
            tokens: what was generated, with whatever comes after the end token.
            recorder, words, pointer: what was in force.
            top: how many triples of evidence at most.
        """
        said = self._until_end(tokens)
        if pointer is None:
            text, best = self._decoded(said), recorder.best(row, len(said), top)
            mass = max(recorder.peaks(row, 1).values(), default=0.0)
            return Answer(
                text,
                _evidence(words, best),
                is_refusal(text, self.refusal),
                len(said),
                knowledge_mass=mass,
                is_cut=self._is_cut(said),
            )
        plan = pointer.plans[row]
        if plan.decision.is_base:
            judged = plan.decision
            return Answer(
                "",
                (),
                False,
                0,
                knowledge_mass=judged.mass,
                confidence=judged.confidence,
                from_base=True,
                known=False,
            )
        text, length = planned_text(self.tokenizer, plan, said, self.how.stops)
        best = rests_on(plan.decision, recorder.peaks(row, len(said)), top)
        return Answer(
            text,
            _evidence(words, best),
            plan.decision.is_refusal or is_refusal(text, self.refusal),
            len(said),
            copied=plan.copied(length) if plan.has_settled(said) else (),
            knowledge_mass=plan.decision.mass,
            confidence=plan.decision.confidence,
            is_cut=self._is_cut(said),
            known=plan.decision.is_known if pointer.decides else None,
        )

    def of_base(self, tokens: Sequence[int]) -> Answer:
        """The base model's answer."""
        said = self._until_end(tokens)
        return Answer(self._decoded(said), (), False, len(said), from_base=True, is_cut=self._is_cut(said))

    def _until_end(self, tokens: Sequence[int]) -> Sequence[int]:
        """What was said before the row's end: an end token, a stop string, or the padding of a row that has stopped."""
        ends, pad = self.how.ends, self.how.pad
        length = next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))
        if self.how.arguments.get("stopping_criteria"):  # else a model that says the padding token means it
            while pad not in ends and length > 1 and tokens[length - 1] == pad:  # every row says one token
                length -= 1
        if self._has_stopped(tokens[:length]):
            said = range(1, length + 1)
            length = bisect.bisect_left(said, True, key=lambda count: self._has_stopped(tokens[:count])) + 1
        return tokens[:length]

    def _has_stopped(self, tokens: Sequence[int]) -> bool:
        text = _decoded(self.tokenizer, tokens) if self.how.stops else ""
        return any(stop in text for stop in self.how.stops)

    def _is_cut(self, tokens: Sequence[int]) -> bool:
        if tokens[-1] in self.how.ends or self._has_stopped(tokens):
            return False
        # What else may end a row is the clock; a criterion of the caller's ends it where the caller wants.
        is_timed = self.how.config.max_time is not None and not self.how.arguments.get("stopping_criteria")
        return is_timed or len(tokens) >= self.how.max_new_tokens

    def _decoded(self, tokens: Sequence[int]) -> str:
        return trimmed(_decoded(self.tokenizer, tokens), self.how.stops)


def planned_text(
    tokenizer: PreTrainedTokenizerBase, plan: Plan, tokens: Sequence[int], stops: Sequence[str] = ()
) -> tuple[str, int]:
    """(the text of an answer, how many of its characters are the plan's).

    Args:
        tokenizer: of the model.
        plan: of the answer.
        tokens: that were said.
        stops: strings at which it ends, see `trimmed`.
    """
    planned = plan.said(tokens)
    if not planned:
        return trimmed(_decoded(tokenizer, tokens), stops), 0
    count = plan.followed(tokens)
    if count == len(tokens):
        said = trimmed(planned, stops, start=False)
        return said, len(said)
    # Not the length of the one text: a tokenizer may take a space away again, before a stop.
    before, whole = _decoded(tokenizer, tokens[:count]), _decoded(tokenizer, tokens)
    alike = next((at for at, pair in enumerate(zip(before, whole, strict=False)) if len({*pair}) > 1), len(before))
    return trimmed(planned + whole[alike:], stops, start=False), len(planned)


def trimmed(text: str, stops: Sequence[str], *, start: bool = True) -> str:
    """An answer without white space at its ends, but for that of the stop string at which it ended.

    Args:
        text: as the tokenizer wrote it.
        stops: strings at which it may have ended; white space in them counts.
        start: whether the beginning is trimmed too.
    """
    first, last = len(text) - len(text.lstrip()) if start else 0, len(text.rstrip())
    found = [(at, at + len(stop)) for stop in stops if (at := text.find(stop)) >= 0]
    if found:
        at, end = min(found)
        first, last = min(first, at), max(last, end)
    return text[first:last]


def rests_on(decision: Decision, peak: Mapping[int, float], top: int) -> list[tuple[int, float]]:
    """The triples of an answer's evidence, by place, with their masses: those that it says first, then the strongest.

    Args:
        peak: the largest mass of each at one of the answer's tokens.
        top: how many at most.
    """
    masses = dict(peak)
    # The parts of a question were asked alone, and what each found there counts too.
    for fact in decision.facts:
        masses[fact.place] = max(fact.mass, masses.get(fact.place, 0.0))
    facts = {fact.place for fact in decision.facts}
    return sorted(masses.items(), key=lambda item: (item[0] not in facts, -item[1]))[:top]


def _decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    with TOKENIZING:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))


def _evidence(words: Words, best: Sequence[tuple[int, float]]) -> tuple[Evidence, ...]:
    return tuple(Evidence(one.triple, one.mass, changed) for one, changed in words.of_evidence(best))
