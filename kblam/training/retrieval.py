"""Stage 1, without the language model: question and key projections, against the prompt's measured weight.

A batch is a set of questions over the facts of their entities and of strangers. Each head's softmax runs over these
facts and the prompt, whose log-sum-exp is drawn as it was measured. Some rows must not see their fact (its property
is then missing) or its entity.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kblam.adapter import KnowledgeAdapter
from kblam.errors import TrainingError
from kblam.training.config import setting
from kblam.training.questions import Asked, Facts, Kind, targets
from kblam.training.start import Measured
from kblam.training.vectors import Vectors

# Smallest and largest number of facts of a batch.
COLUMNS = (300, 1500)
# Share of the questions whose fact is hidden, and whose entity is; the rest is answered.
NO_PROPERTY, NO_ENTITY = 0.38, 0.1
_HIDDEN = -1e9


@dataclass(frozen=True)
class RetrievalBatch:
    """B questions over M facts."""

    question: Tensor  # (B, P) float32
    keys: Tensor  # (M, P) float32
    wanted: Tensor  # (B, M): share of attention each fact should get; a row of zeros has no answer
    bias: Tensor  # (B, M): log multiplicity, or -1e9 for a fact that the row must not see

    def to(self, device: torch.device) -> RetrievalBatch:
        """The same on a device."""
        return RetrievalBatch(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))


class RetrievalData:
    """Questions and facts with their vectors; `batch(step)` follows from (seed, step).

    Args:
        facts: what may be in a knowledge base.
        asked: questions about them.
        vectors: of all key texts and questions.
        size: B.
        virtual_triples: distractors weigh up to as much as so many would.
        seed: of all drawing.
    """

    def __init__(
        self, facts: Facts, asked: Sequence[Asked], vectors: Vectors, *, size: int, virtual_triples: int, seed: int
    ) -> None:
        self.facts, self.asked, self.vectors = facts, list(asked), vectors
        self.size, self.virtual, self.seed = size, virtual_triples, seed
        self._key_rows = vectors.rows(facts.key_texts)
        self._question_rows = vectors.rows(question.text for question in asked)

    def batch(self, step: int) -> RetrievalBatch:
        """The batch of one step."""
        rng = random.Random(f"{self.seed} retrieval {step}")
        picked = rng.sample(range(len(self.asked)), min(self.size, len(self.asked)))
        asked = [self.asked[index] for index in picked]
        columns = round(COLUMNS[0] * (COLUMNS[1] / COLUMNS[0]) ** rng.random())
        place, chosen = self._columns(asked, columns, rng)
        owner = self.facts.owner[chosen]
        wanted = targets(asked, place, len(chosen))
        bias = torch.zeros(len(asked), len(chosen), dtype=torch.float32)
        for row, question in enumerate(asked):
            mine = torch.zeros(len(chosen), dtype=torch.bool)
            for asked_for in dict.fromkeys(self.facts.owner[list(question.facts)].tolist()):
                for one in self.facts.called_as(asked_for):
                    mine |= owner == one
            bias[row, ~mine] = rng.random() * math.log(max(1.0, self.virtual / len(chosen)))
            missing = rng.random()
            if question.kind is Kind.GENERAL or missing >= NO_PROPERTY + NO_ENTITY:
                continue
            # Of a question about two facts or a whole entity everything is hidden: half an answer is another case.
            is_entity = missing < NO_ENTITY or question.kind is not Kind.SINGLE
            alike = place[self.facts.alike(question.facts[0])]
            bias[row, mine if is_entity else alike[alike >= 0]] = _HIDDEN
            wanted[row] = 0
        rows = self._question_rows[torch.tensor(picked)]
        return RetrievalBatch(self.vectors.at(rows), self.vectors.at(self._key_rows[chosen]), wanted, bias)

    def _columns(self, asked: Sequence[Asked], columns: int, rng: random.Random) -> tuple[Tensor, Tensor]:
        """The column of each fact (or -1), and the facts of the batch: entities with theirs, asked ones and strangers.

        Of a very large entity some facts are left out, but none that a question asks for by itself.
        """
        entities = dict.fromkeys(int(self.facts.owner[fact]) for question in asked for fact in question.facts)
        held = sum(self.facts.size_of(entity) for entity in entities)
        while held < columns and len(entities) < len(self.facts.entities):
            stranger = rng.randrange(len(self.facts.entities))
            if stranger not in entities:
                entities[stranger] = None
                held += self.facts.size_of(stranger)
        keep = {fact for question in asked if question.kind is not Kind.OPEN for fact in question.facts}
        chosen = torch.tensor([fact for entity in entities for fact in self.facts.part_of(entity, rng, keep)])
        place = torch.full((len(self.facts),), -1)
        place[chosen] = torch.arange(len(chosen))
        return place, chosen


def retrieval_scores(adapter: KnowledgeAdapter, question: Tensor, keys: Tensor, scale: Mapping[int, float]) -> Tensor:
    """(L, Hq, B, M) scores of questions (B, P) against facts (M, P) at each knowledge layer, of which `scale` is."""
    config = adapter.config
    shape = (config.num_heads, config.head_dim)
    projected = adapter.project_keys(keys).unflatten(-1, (config.num_slots, *shape))
    slots = [config.slot_of(layer) for layer in config.knowledge_layers]
    asking = torch.stack([adapter.question_part(layer, question) for layer in config.knowledge_layers], 1)
    products = torch.einsum("qlhd,klhd->lhqk", asking.unflatten(-1, shape), projected[:, slots])
    # By plain numbers: a tensor of them would be rounded to the products' dtype first.
    return torch.stack([of * scale[layer] for of, layer in zip(products, config.knowledge_layers, strict=True)])


def retrieval_losses(
    adapter: KnowledgeAdapter, batch: RetrievalBatch, prompt_lse: Tensor, scale: Mapping[int, float], *, bf16: bool
) -> tuple[Tensor, Tensor]:
    """(retrieval, refusal): -log of the wanted facts' shares, and -log(1 - knowledge mass) where there are none.

    Each is the mean of its questions, and 0 without any, as a batch of few may be.

    Args:
        adapter: decides the device.
        prompt_lse: (L, Hq, B), what the prompt weighs for each row.
        scale: of the scores of each knowledge layer.
        bf16: products in bfloat16.
    """
    device = next(adapter.parameters()).device
    batch, prompt_lse = batch.to(device), prompt_lse.to(device)
    with torch.autocast(batch.keys.device.type, torch.bfloat16, enabled=bf16):
        scores = retrieval_scores(adapter, batch.question, batch.keys, scale)
    scores = scores.float() + batch.bias
    total = torch.logaddexp(scores.logsumexp(-1), prompt_lse)
    answerable = batch.wanted.sum(1) > 0
    share = (scores[:, :, answerable] - total[:, :, answerable, None]) * batch.wanted[answerable]
    # By shapes, which the host knows.
    retrieval = -share.sum(-1).mean() if share.shape[2] else scores.new_zeros(())
    log_mass = (scores.logsumexp(-1) - total)[:, :, ~answerable]
    refused = -torch.log1p(-log_mass.exp().clamp(max=1 - 1e-4))
    return retrieval, refused.mean() if refused.shape[2] else scores.new_zeros(())


def schedule(step: int, steps: int, warmup: int, kind: str) -> float:
    """The factor on the learning rate at a step."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return {"constant": 1.0, "linear": 1 - done}.get(kind, 0.5 * (1 + math.cos(math.pi * done)))


def train_retrieval(
    adapter: KnowledgeAdapter,
    data: RetrievalData,
    measured: Measured,
    *,
    steps: int,
    learning_rate: float,
    warmup: int,
    bf16: bool,
    report: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
) -> None:
    """Stage 1, in place. It takes minutes, so it is not resumed half-way.

    Args:
        measured: of the model's attention.
        report: told step and losses after each step, none of what its batch has no questions of.

    Raises:
        TrainingError: a loss is not finite.
    """
    lse = torch.stack([measured.prompt_lse[layer] for layer in adapter.config.knowledge_layers])  # (L, prompts, Hq)
    trained = [*adapter.key_projector.parameters(), *adapter.question_trunk.parameters()]
    trained += list(adapter.question_heads.parameters())
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    draw = torch.Generator().manual_seed(data.seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * schedule(step, steps, warmup, "cosine")
        batch = data.batch(step)
        rows = torch.randint(lse.shape[1], (len(batch.question),), generator=draw)
        weighs = lse[:, rows].transpose(1, 2)
        retrieval, refusal = retrieval_losses(adapter, batch, weighs, measured.scale, bf16=bf16)
        optimizer.zero_grad(set_to_none=True)
        (retrieval + refusal).backward()
        optimizer.step()
        answerable = batch.wanted.sum(1) > 0
        losses = {"retrieval": (retrieval.item(), answerable.any()), "refusal": (refusal.item(), ~answerable.all())}
        figures: dict[str, float] = {name: loss for name, (loss, has_questions) in losses.items() if has_questions}
        if not all(map(math.isfinite, figures.values())):
            raise TrainingError(
                f"the loss of step {step + 1} of stage 1 is not finite; lower {setting('retrieval_learning_rate')} "
                f"({learning_rate})"
            )
        report(step + 1, figures)
