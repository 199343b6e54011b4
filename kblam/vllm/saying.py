"""What requests are to say, mixed into the logits of the rows that say it: the pointer in a worker.

The scheduler has decided (`deciding.py`). A worker only follows: whether what a request has said is still a beginning
of its plan is kept on the device, told from the tokens that the model is given, so nothing is read back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kblam.generation.mixture import REFUSING, steer, weight_of

if TYPE_CHECKING:
    from kblam.vllm.step import RequestKnowledge

_NONE = -1


@dataclass(frozen=True)
class Line:
    """The answer of one request, as a worker needs it.

    Args:
        tokens: of the sentence, and the end token.
        settled, begun: of each token, see `kblam.generation.plan.Plan`.
        mass: of the planned triples at the prompt's end.
        facts: their ids.
        known: whether the decision counts as known.
        sure: whether the model is not asked (`Rules.insists_on`).
        refusal: tokens of the refusal sentence and the end token.
    """

    tokens: tuple[int, ...]
    settled: tuple[bool, ...]
    begun: tuple[bool, ...]
    mass: float
    facts: tuple[int, ...]
    known: bool
    sure: bool
    refusal: tuple[int, ...]

    @property
    def asks_attention(self) -> bool:
        """Whether it matters how much of the attention its triples get at each token."""
        return bool(self.tokens and self.facts) and not self.is_certain

    @property
    def is_certain(self) -> bool:
        """Whether greedy decoding says all of it, whatever the model wants, as `Pointer.is_certain` has it."""
        return bool(self.tokens) and (self.sure or all(self.settled))


@dataclass
class Turn:
    """What the requests of one step with a line do in it.

    Args:
        heard_rows, heard_slots: rows of the step that are tokens of an answer, and whose.
        heard: what each would be, by plan and by refusal.
        rows: which of the step's requests choose a token.
        requests: those.
        slots: of each.
        steps: how many tokens each has said.
        now: by place among `requests`, float32 (), the mass of its triples at this token.
    """

    heard_rows: list[int] = field(default_factory=list)
    heard_slots: list[int] = field(default_factory=list)
    heard: list[tuple[int, int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    requests: list[RequestKnowledge] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    now: dict[int, Tensor] = field(default_factory=dict)


class Sayings:
    """Of the requests of one worker that have a line.

    Args:
        device: of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # By slot: whether all that was said is a beginning of the plan, and of the refusal sentence.
        self._follows = torch.ones(1, 2, dtype=torch.int32, device=device)
        self._slot_of: dict[str, int] = {}
        self._free = [0]
        self._turn: Turn | None = None

    def begin(
        self, requests: Sequence[RequestKnowledge | None], starts: Sequence[int], lengths: Sequence[int]
    ) -> Turn | None:
        """A step begins; None if nobody in it has a line.

        Args:
            requests: of the batch, in its order.
            starts: where the tokens of each begin, and the end of the last one's.
            lengths: tokens of each that will be in the cache after this step.
        """
        turn = Turn()
        for place, request in enumerate(requests):
            if request is None or request.line is None or starts[place + 1] == starts[place]:
                continue
            slot = self._slot(request.request_id)
            first = lengths[place] - (starts[place + 1] - starts[place])
            for at in range(max(first, request.prompt_tokens), lengths[place]):
                said = at - request.prompt_tokens
                turn.heard_rows.append(starts[place] + at - first)
                turn.heard_slots.append(slot)
                turn.heard.append((_at(request.line.tokens, said), _at(request.line.refusal, said)))
            if lengths[place] >= request.prompt_tokens:
                turn.rows.append(place)
                turn.requests.append(request)
                turn.slots.append(slot)
                turn.steps.append(lengths[place] - request.prompt_tokens)
        self._turn = turn if turn.rows or turn.heard_rows else None
        return self._turn

    def hear(self, tokens: Tensor) -> None:
        """The step's tokens, int64 (T,): who has said something else than planned follows no more."""
        if self._turn is None or not self._turn.heard_rows:
            return
        turn = self._turn
        rows, slots = self._on_device([turn.heard_rows, turn.heard_slots])
        is_said = tokens[rows, None] == self._on_device(turn.heard)
        self._follows.scatter_reduce_(0, slots[:, None].expand(-1, 2), is_said.to(torch.int32), "amin")

    def steer(self, logits: Tensor) -> Tensor:
        """(R, V) logits of the step's requests -> the same with their lines; only of the first call in a step."""
        turn, self._turn = self._turn, None
        if turn is None or not turn.rows:
            return logits
        lines = [request.line for request in turn.requests if request.line is not None]
        steps = list(zip(lines, turn.steps, strict=True))
        target, other, rows, slots = self._on_device(
            [
                [_at(line.tokens, step) for line, step in steps],
                [_at(line.refusal, step) if step >= REFUSING else _NONE for line, step in steps],
                turn.rows,
                turn.slots,
            ]
        )
        settled, begun, known, sure = self._on_device(
            [
                [line.settled[step] if step < len(line.tokens) else False for line, step in steps],
                [line.begun[step] if step < len(line.tokens) else False for line, step in steps],
                [line.known for line in lines],
                [line.sure for line in lines],
            ]
        ).bool()
        mass = torch.tensor([line.mass for line in lines], dtype=torch.float32).to(self.device, non_blocking=True)
        for place, now in turn.now.items():
            mass[place] = torch.maximum(mass[place], now)
        follows = self._follows[slots].bool()
        said = steer(
            logits[rows],
            target.clamp(min=0),
            weight_of(mass, settled=settled, begun=begun, known=known, sure=sure),
            follows[:, 0] & (target >= 0),
            other.clamp(min=0),
            follows[:, 1] & (other >= 0),
        )
        return logits.index_copy_(0, rows, said)

    def end(self, request_ids: Iterable[str]) -> None:
        """Requests have ended; those that are put off have not."""
        for request_id in request_ids:
            if (slot := self._slot_of.pop(request_id, None)) is not None:
                self._free.append(slot)

    def _slot(self, request_id: str) -> int:
        found = self._slot_of.get(request_id)
        if found is None:
            if not self._free:
                size = len(self._follows)
                self._follows = torch.cat([self._follows, torch.ones_like(self._follows)])
                self._free = list(range(size, 2 * size))
            found = self._slot_of[request_id] = self._free.pop()
            self._follows[found] = 1
        return found

    def _on_device(self, numbers: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64).to(self.device, non_blocking=True)


def _at(tokens: Sequence[int], step: int) -> int:
    """`_NONE` past the end: no token is that."""
    return tokens[step] if step < len(tokens) else _NONE
