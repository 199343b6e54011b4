"""The pointer: words that stand in the knowledge base are copied from it, as far as attention rests on their triple."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from kblam.errors import GenerationError, GenerationFailedError
from kblam.generation.decision import AskedSplit, Decision, Rules, decide
from kblam.generation.evidence import EvidenceRecorder, rows_of_each
from kblam.generation.mixture import REFUSING, steer, weight_of
from kblam.generation.plan import Plan, plan, refusal_tokens
from kblam.generation.prompt import TOKENIZING
from kblam.generation.wording import CONTEXT, Wordings
from kblam.generation.words import Words, judged, named_places
from kblam.models import Attachment
from kblam.models.judging import Judge
from kblam.models.resident import ResidentKnowledge


class _Tables(NamedTuple):
    """The plans of all rows on the device: tokens (B, L), -1 after a row's end; what is certain; masses."""

    tokens: Tensor  # int64 (B, L)
    begun: Tensor  # bool (B, L)
    settled: Tensor  # bool (B, L)
    places: Tensor  # int64 (B, J), -1 for none
    refusal: Tensor  # int64 (B, R), the refusal sentence and the end token; -1 after it
    weight: Tensor  # float32 (B,), the mass at the prompt's end
    known: Tensor  # bool (B,)
    sure: Tensor  # bool (B,), `Rules.insists_on`


class Pointer(LogitsProcessor):
    """Mixes the planned answer into the next-token distribution; for one `generate` call.

    At the prompt's end it reads the masses once, decides what may be copied (`decision.py`) and writes that down in
    tokens. From then on nothing is read from the device. While what a row has said is a prefix of its plan,

        p = (1 - w) p_model + w [the next token of the plan],

    where w is the planned triples' mass at the prompt's end, or now if that is more, at most .9999; it is .9999 where
    `known_above` decides what becomes of unknown questions, and the decision is sure (`Decision.is_sure`). A token that
    is settled has w = 1: the rest of a name or property that has begun, and from the first value on everything, the end
    token too. A row that leaves its plan is the model's alone from there on, so that a value is only ever said after
    its own name and property; but a row that has begun the refusal sentence by itself says the whole of it.

    Beams are followed too, each by what it has said itself.

        pointer = Pointer(attachment, resident, tokenizer)
        with attachment.using(resident, question=vectors), attachment.observing(pointer.recorder):
            output = model.generate(ids, attention_mask=mask, logits_processor=[pointer])

    Args:
        attachment: of the model.
        resident: the knowledge in force, `kblam.models.copies.reading`.
        tokenizer: of the model.
        questions: the text of each row's question; without them none can be about a whole entity.
        cuts: for each row the ways to cut its question, asked part by part; see `Session`.
        rules: how to decide; None takes the adapter's `known_above` and leaves unknown questions to the model.
        judge: of the knowledge base; without one the attention mass decides.
        end: the end token; None takes the model's.
        words: of the triples, if some were read before.

    Attributes:
        recorder: what the attachment has to call in every forward pass.
        plans: one for each row, after the first token.
    """

    def __init__(
        self,
        attachment: Attachment,
        resident: ResidentKnowledge,
        tokenizer: PreTrainedTokenizerBase,
        *,
        questions: Sequence[str] | None = None,
        cuts: Sequence[Sequence[AskedSplit]] | None = None,
        rules: Rules | None = None,
        judge: Judge | None = None,
        end: int | None = None,
        words: Words | None = None,
    ) -> None:
        self.attachment, config = attachment, attachment.config
        self.words = Words(resident, copied=config.pointer) if words is None else words
        named = named_places(judge, questions, resident) if questions else None
        self.recorder = EvidenceRecorder(named)
        self.plans: list[Plan] = []
        self._rules = rules or Rules(config, config.known_above, None)
        self._questions, self._cuts = questions, cuts
        self._judge = judge
        self._wordings = Wordings(tokenizer)
        self._end = next(iter(end_ids(attachment.model, tokenizer)), None) if end is None else end
        self._prompt_length = 0
        self._tables: _Tables | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids (B, N) int64 and scores (B, V) -> scores (B, V); what `generate` calls for every token."""
        if self.recorder.is_open:
            self.recorder.close(input_ids.shape[1])
        if self._tables is None:
            self._tables = self._begin(input_ids, scores.shape[-1])
        table, step = self._tables, input_ids.shape[1] - self._prompt_length
        if step < 0 or input_ids.shape[0] != table.tokens.shape[0] or len(self.recorder.masses) <= step:
            raise GenerationError(
                "a pointer follows one generate call from its first token on, token by token: make a new Pointer for "
                "each call, and turn off what guesses several tokens at once (assistant_model, "
                "prompt_lookup_num_tokens)"
            )
        if step >= max(table.tokens.shape[1], table.refusal.shape[1]):
            return scores
        said = input_ids[:, self._prompt_length :]
        target, follows = _next(table.tokens, said)
        other, refuses = _next(table.refusal, said) if step >= REFUSING else _nothing(table.sure)
        return steer(scores, target, self._weight(table, step), follows, other, refuses)

    def begin(self, input_ids: Tensor, vocabulary: int) -> None:
        """Decides and plans at the prompt's end, before there are scores; the first call of a `generate` does it else.

        Args:
            input_ids: int64 (B, N), the prompts, whose pass the recorder saw.
            vocabulary: how many tokens the model can say.
        """
        self._tables = self._begin(input_ids, vocabulary)

    @property
    def is_certain(self) -> bool:
        """Whether greedy decoding says every row's plan, from the first token to the end, whatever the model wants."""
        if self._end is None or self._end < 0:  # transformers takes -1 for "never"
            return False
        return all(one.tokens and (all(one.settled) or self._rules.insists_on(one.decision)) for one in self.plans)

    @property
    def decides(self) -> bool:
        """Whether a `known_above` tells known questions from others."""
        return self._rules.known_above is not None

    def decision(self, row: int) -> Decision:
        """What was decided for a row."""
        return self.plans[row].decision

    def _weight(self, table: _Tables, step: int) -> Tensor:
        if step >= table.tokens.shape[1]:
            return torch.zeros_like(table.weight)
        masses = self.recorder.masses[-1].to(table.tokens.device, torch.float32)
        places = self.recorder.places[-1].to(table.tokens.device)
        planned = (places[:, :, None] == table.places[:, None]).any(-1)
        return weight_of(
            torch.maximum(table.weight, (masses * planned).sum(-1)),
            settled=table.settled[:, step],
            begun=table.begun[:, step],
            known=table.known,
            sure=table.sure,
        )

    def _begin(self, input_ids: Tensor, vocabulary: int) -> _Tables:
        """Decides and plans for all rows, from what is read of the device here and never again."""
        if not self.recorder.masses or self.recorder.masses[-1].shape[0] != input_ids.shape[0]:
            raise GenerationError(
                "the pointer saw no attention to knowledge for these rows: call generate inside "
                "attachment.using(resident, ...) and attachment.observing(pointer.recorder)"
            )
        self._prompt_length = input_ids.shape[1]
        newest, prompts = self.recorder.newest(), input_ids[:, -CONTEXT:].tolist()
        refusals: list[list[int]] = []
        questions = [self._of_row(self._questions, row, len(newest)) for row in range(len(newest))]
        found = judged(self._judge, questions, [self.words.found(best) for best in newest])
        for row, question in enumerate(questions):
            cuts = self._of_row(self._cuts, row, len(newest))
            decision = decide(self._rules, question, found[row], cuts or ())
            with TOKENIZING:
                self.plans.append(plan(decision, prompts[row], self._wordings, self._end))
                refusals.append(refusal_tokens(self._rules.config, prompts[row], self._wordings, self._end))
        written = [*(one.tokens for one in self.plans), *refusals]
        if (most := max((token for tokens in written for token in tokens), default=0)) >= vocabulary:
            raise GenerationFailedError(
                f"the tokenizer gave token {most}, the model has {vocabulary}: it is another model's tokenizer"
            )
        return self._tables_of(self.plans, refusals, input_ids.device)

    @staticmethod
    def _of_row(given: Sequence[Any] | None, row: int, rows: int) -> Any:
        """What belongs to a row, where `generate` made several rows of each for beams."""
        if given is None:
            return None
        return given[row // rows_of_each(len(given), rows)]

    def _tables_of(self, plans: Sequence[Plan], refusals: Sequence[Sequence[int]], device: torch.device) -> _Tables:
        length = max((len(one.tokens) for one in plans), default=0)
        most = max([len(one.decision.facts) for one in plans] + [1])
        longest = max((len(one) for one in refusals), default=0)

        def padded(rows: Sequence[Sequence[int]], width: int, fill: int, dtype: torch.dtype) -> Tensor:
            filled = [[*row, *[fill] * (width - len(row))] for row in rows]
            return torch.tensor(filled, dtype=dtype).view(len(plans), width).to(device)

        return _Tables(
            tokens=padded([one.tokens for one in plans], length, -1, torch.int64),
            begun=padded([one.begun for one in plans], length, False, torch.bool),
            settled=padded([one.settled for one in plans], length, False, torch.bool),
            places=padded([[fact.place for fact in one.decision.facts] for one in plans], most, -1, torch.int64),
            refusal=padded(refusals, longest, -1, torch.int64),
            weight=torch.tensor([one.decision.mass for one in plans], dtype=torch.float32).to(device),
            known=torch.tensor([one.decision.is_known for one in plans]).to(device),
            sure=torch.tensor([self._rules.insists_on(one.decision) for one in plans]).to(device),
        )


def end_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer of a model."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if ends is None:
        ends = tokenizer.eos_token_id
    if ends is None:
        return []
    return list(ends) if isinstance(ends, (list, tuple)) else [int(ends)]


def _next(planned: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
    """(the next planned token, at least 0; whether what was said is a beginning of the plan), each (B,)."""
    step = said.shape[1]
    if step >= planned.shape[1]:
        return _nothing(planned[:, :0].any(-1))
    target = planned[:, step]
    return target.clamp(min=0), (said == planned[:, :step]).all(-1) & (target >= 0)


def _nothing(like: Tensor) -> tuple[Tensor, Tensor]:
    """No row has a next token."""
    return torch.zeros_like(like, dtype=torch.int64), torch.zeros_like(like, dtype=torch.bool)
