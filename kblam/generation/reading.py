"""From generated tokens to an answer: its text, what was copied, and what it rests on."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from kblam.generation.answer import Answer, is_refusal
from kblam.generation.evidence import Evidence, EvidenceRecorder, find
from kblam.generation.plan import Plan
from kblam.generation.pointer import Pointer
from kblam.generation.prompt import TOKENIZING
from kblam.models.resident import ResidentKnowledge


class Reader:
    """Reads the answers of one batch.

    Args:
        tokenizer: of the model.
        refusal: the adapter's refusal sentence.
        ends: end tokens.
        max_new_tokens: the length limit that the answers were given.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, refusal: str, ends: Sequence[int], max_new_tokens: int
    ) -> None:
        self.tokenizer, self.refusal, self.ends, self.max_new_tokens = tokenizer, refusal, ends, max_new_tokens

    def answer(
        self,
        row: int,
        tokens: Sequence[int],
        recorder: EvidenceRecorder,
        resident: ResidentKnowledge,
        top: int,
        pointer: Pointer | None = None,
    ) -> Answer:
        """The answer of a row.

        Args:
            row: of the batch.
            tokens: what was generated, with whatever comes after the end token.
            recorder, resident, pointer: what was in force.
            top: how many triples of evidence at most.
        """
        said = self._until_end(tokens)
        if pointer is None:
            text, best = self._decoded(said), recorder.best(row, len(said), top)
            mass = recorder.masses[0][row].max().item() if recorder.masses and recorder.masses[0].shape[1] else 0.0
            evidence = tuple(Evidence(one.triple, one.mass) for one in find(resident, best))
            return Answer(
                text,
                evidence,
                is_refusal(text, self.refusal),
                len(said),
                knowledge_mass=mass,
                is_cut=self._is_cut(said),
            )
        plan = pointer.plans[row]
        if plan.decision.is_base:
            return Answer("", (), False, 0, knowledge_mass=plan.decision.mass, from_base=True, known=False)
        text, length = self._planned(plan, said)
        # The parts of a question were asked alone, and what each found there counts too.
        peak = dict(recorder.best(row, len(said), top + len(plan.decision.facts)))
        for fact in plan.decision.facts:
            peak[fact.place] = max(fact.mass, peak.get(fact.place, 0.0))
        best = sorted(peak.items(), key=lambda item: -item[1])[:top]
        return Answer(
            text,
            tuple(Evidence(one.triple, one.mass) for one in find(resident, best)),
            is_refusal(text, self.refusal),
            len(said),
            copied=plan.copied(length) if plan.has_settled(said) else (),
            knowledge_mass=plan.decision.mass,
            is_cut=self._is_cut(said),
            known=plan.decision.is_known if pointer.decides else None,
        )

    def of_base(self, tokens: Sequence[int]) -> Answer:
        """The base model's answer."""
        said = self._until_end(tokens)
        return Answer(self._decoded(said), (), False, len(said), from_base=True, is_cut=self._is_cut(said))

    def _planned(self, plan: Plan, tokens: Sequence[int]) -> tuple[str, int]:
        """(text, how many of its characters are the plan's)."""
        planned = plan.said(tokens)
        if not planned:
            return self._decoded(tokens), 0
        count = plan.followed(tokens)
        if count == len(tokens):
            return planned.rstrip(), len(planned.rstrip())
        # Not the length of the one text: a tokenizer may take a space away again, before a stop.
        before, whole = self._decoded(tokens[:count], strip=False), self._decoded(tokens, strip=False)
        alike = next((at for at, pair in enumerate(zip(before, whole, strict=False)) if len({*pair}) > 1), len(before))
        return (planned + whole[alike:]).rstrip(), len(planned)

    def _until_end(self, tokens: Sequence[int]) -> Sequence[int]:
        length = next((place + 1 for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        return tokens[:length]

    def _is_cut(self, tokens: Sequence[int]) -> bool:
        return len(tokens) >= self.max_new_tokens and tokens[-1] not in self.ends

    def _decoded(self, tokens: Sequence[int], *, strip: bool = True) -> str:
        with TOKENIZING:
            text = str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))
        return text.strip() if strip else text
