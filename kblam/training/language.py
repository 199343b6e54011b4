"""Stage 2: the adapter through the frozen language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from kblam.adapter import KnowledgeAdapter
from kblam.data.batch import IGNORE, Batch
from kblam.models import Attachment
from kblam.training.losses import evidence_loss, evidence_weight, sentence_loss

RETRIEVAL_WEIGHT, REFUSAL_WEIGHT = 0.5, 1.0


class Learner(nn.Module):
    """The losses of a batch as a function of the adapter's weights: what DistributedDataParallel wraps.

    Args:
        adapter: what learns; the only weights of this module.
        attachment: of the frozen model, `trainable`.
    """

    def __init__(self, adapter: KnowledgeAdapter, attachment: Attachment) -> None:
        super().__init__()
        self.adapter = adapter
        self._attachment = [attachment]  # in a list: the base model is no part of this module

    @property
    def attachment(self) -> Attachment:
        """Of the frozen model."""
        return self._attachment[0]

    def forward(self, batch: Batch, keys: Tensor, values: Tensor, questions: Tensor) -> dict[str, Tensor]:
        """Sums over the rows of the batch: sentence, retrieval and refusal losses, and counts of what was right.

        Args:
            keys, values: (M, P) float32 vectors of the batch's triples.
            questions: (B, P) float32, of its rows.
        """
        model: Any = self.attachment.model
        projected = self.adapter.project(keys, values, dtype=model.dtype)
        seen: dict[str, Any] = {}
        asked = questions if self.adapter.config.question_head is not None else None
        with (
            self.attachment.using(projected, bias=batch.bias, question=asked),
            self.attachment.observing(seen.update),
            sdpa_kernel(SDPBackend.MATH),  # on CPU several times as fast for short masked rows
        ):
            # Layers below the first with knowledge record nothing: neither their weights nor their inputs learn.
            output = model.get_decoder()(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            )
        said = batch.labels != IGNORE
        logits = model.get_output_embeddings()(output.last_hidden_state[said])
        retrieval, refusal = evidence_loss(seen["query"], seen["lse"], seen["knowledge"].key, batch, seen["scale"])
        return {
            "sentence": sentence_loss(logits, batch),
            "retrieval": retrieval,
            "refusal": refusal,
            **self._counts(logits.detach(), seen, batch),
        }

    @torch.no_grad()
    def _counts(self, logits: Tensor, seen: dict[str, Any], batch: Batch) -> dict[str, Tensor]:
        said = batch.labels != IGNORE
        right = torch.zeros_like(said)
        right[said] = logits.argmax(-1) == batch.labels[said]
        rows = torch.arange(len(batch.first), device=said.device)
        first_right = right[rows, batch.first]
        query, lse = seen["query"][rows, :, batch.first].float(), seen["lse"][rows, :, batch.first]
        scores = torch.einsum("bhd,hmd->bhm", query, seen["knowledge"].key.float()) * seen["scale"]
        mass = (scores + batch.bias[:, None] - lse[..., None]).exp().mean(1)
        wanted = torch.zeros_like(mass, dtype=torch.bool)
        row, position, triple = batch.evidence.unbind(1)
        at_first = position == batch.first[row]
        wanted[row[at_first], triple[at_first]] = True
        answerable = ~batch.refused
        whole = (right | ~said).all(1)
        return {
            "top1": wanted[rows, mass.argmax(1)][answerable].float().sum(),
            "mass": mass.amax(1)[answerable].sum(),
            "mass_unanswerable": mass.amax(1)[batch.refused].sum(),
            "answered": first_right[answerable].float().sum(),
            "refused": first_right[batch.refused].float().sum(),
            "exact": whole[answerable].float().sum(),
        }


def counts_of(batch: Batch) -> dict[str, float]:
    """What the sums of `Learner.forward` are divided by, for the whole batch of a step."""
    refusals = float(batch.refused.sum())
    answerable = len(batch.first) - refusals
    return {
        "sentence": float(len(batch.first)),
        "retrieval": float(evidence_weight(batch).sum()),
        "refusal": refusals,
        "top1": answerable,
        "mass": answerable,
        "mass_unanswerable": refusals,
        "answered": answerable,
        "refused": refusals,
        "exact": answerable,
    }


def means_of(sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """The figures of a batch; none of what it has nothing of, such as refusals where every question has an answer."""
    return {name: value / counts[name] for name, value in sums.items() if counts[name]}


def total_loss(sums: dict[str, Tensor], counts: dict[str, float]) -> Tensor:
    """The loss of a step, or a part of it that adds up with the others'."""
    terms = {name: sums[name] / max(1.0, counts[name]) for name in ("sentence", "retrieval", "refusal")}
    return terms["sentence"] + RETRIEVAL_WEIGHT * terms["retrieval"] + REFUSAL_WEIGHT * terms["refusal"]


def rows_of(batch: Batch, start: int, end: int) -> Batch:
    """Rows [start, end) of a batch; the knowledge base is shared."""
    row = batch.evidence[:, 0]
    mine = batch.evidence[(row >= start) & (row < end)].clone()
    mine[:, 0] -= start
    return Batch(
        input_ids=batch.input_ids[start:end],
        labels=batch.labels[start:end],
        attention_mask=batch.attention_mask[start:end],
        bias=batch.bias[start:end],
        key_rows=batch.key_rows,
        value_rows=batch.value_rows,
        first=batch.first[start:end],
        refused=batch.refused[start:end],
        evidence=mine,
        weight=None if batch.weight is None else batch.weight[start:end],
    )


def trainable_base(model: PreTrainedModel) -> PreTrainedModel:
    """Freezes a base model: only the adapter learns."""
    for weight in model.parameters():
        weight.requires_grad_(False)
    return model.eval()
