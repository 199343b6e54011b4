"""Where training starts: queries and keys that compare the question's vector with a triple's, as the encoder would.

Keys and questions are projected by one random matrix for each head, so a score is a cosine times a gain; the bias of
the keys carries an offset, so that a cosine of `COSINE` weighs as much as the whole prompt. Retrieval is the encoder's
from the first step on, also for names that no training has seen.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kblam.adapter import AdapterConfig, KnowledgeAdapter, ProjectedKnowledge
from kblam.models import attach, detach

# A question and its triple have more than this cosine, and other triples less (MiniLM).
COSINE = 0.83
# Score of two equal vectors over that of two unrelated ones.
GAIN = 32.0
_VALUE_SCALE = 0.2
_QUERY_SCALE = 0.02  # of KBLaM's plain query heads


@dataclass(frozen=True)
class Measured:
    """What a model's attention does at the ends of prompts, by knowledge layer."""

    prompt_lse: dict[int, Tensor]  # (prompts, Hq): the log-sum-exp of the prompt's scores
    scale: dict[int, float]  # the factor on products of queries and keys, which the prompt and knowledge share

    @classmethod
    def usual(cls, config: AdapterConfig, prompt_lse: float) -> Measured:
        """Of one prompt that weighs the same everywhere, and the scale that most models have."""
        weighs = {
            layer: torch.full((1, config.num_heads), prompt_lse, dtype=torch.float32)
            for layer in config.knowledge_layers
        }
        return cls(weighs, dict.fromkeys(weighs, config.head_dim**-0.5))


@torch.no_grad()
def initialise(adapter: KnowledgeAdapter, measured: Measured, seed: int) -> None:
    """Fills a fresh adapter for vectors of unit mean square: the same numbers on every device.

    Args:
        adapter: with linear projections. Without a question head it starts as KBLaM's does: random queries and keys.
        measured: of the model's attention; a head's prompts count by their mean.
        seed: of the random projections.
    """
    # A generator draws on its own device alone.
    drawn = copy.deepcopy(adapter).to("cpu")
    lse = {layer: each.mean(0).cpu() for layer, each in measured.prompt_lse.items()}
    _fill(drawn, lse, measured.scale, seed)
    adapter.load_state_dict(drawn.state_dict())


def _fill(adapter: KnowledgeAdapter, prompt_lse: dict[int, Tensor], scale: dict[int, float], seed: int) -> None:
    config = adapter.config
    P, H, D = config.embedding_dim, config.num_heads, config.head_dim
    draw = torch.Generator().manual_seed(seed)
    key, value = cast(nn.Linear, adapter.key_projector), cast(nn.Linear, adapter.value_projector)
    value.weight.normal_(0, _VALUE_SCALE / math.sqrt(P), generator=draw)
    value.bias.zero_()
    if config.question_head == "mlp":
        up = cast(nn.Linear, adapter.question_trunk.up)
        up.weight.uniform_(-1 / math.sqrt(P), 1 / math.sqrt(P), generator=draw)
        up.bias.zero_()
    if config.question_head is None:
        key.weight.normal_(0, 1 / math.sqrt(P), generator=draw)
        key.bias.zero_()
        for query in adapter.query_heads.values():
            cast(nn.Linear, query).weight.normal_(0, _QUERY_SCALE, generator=draw)
        return
    key.weight.zero_()  # a slot that no layer reads counts in the keys' norm
    key.bias.zero_()
    shared = torch.randn(H * D, P, generator=draw, dtype=torch.float32) / math.sqrt(P)
    spread = math.sqrt(2)  # of a key's numbers before its norm: one from the projection, one from the bias
    for layer in config.knowledge_layers:
        slot = config.slot_of(layer)
        rows = slice(slot * H * D, (slot + 1) * H * D)
        bias = torch.randn(H, D, generator=draw, dtype=torch.float32)
        length = bias.pow(2).sum(-1)
        # Neither projection has a part along the bias, so that the offset is the same for all triples.
        along = bias[:, :, None] * bias[:, None, :] / length[:, None, None]
        projection = ((torch.eye(D, dtype=torch.float32) - along) @ shared.view(H, D, P)).reshape(H * D, P)
        key.weight[rows], key.bias[rows] = projection, bias.reshape(-1)
        head = cast(nn.Linear, adapter.question_heads[str(layer)])
        stretch = D**-0.5 / scale[layer]  # of queries, where the layer's scale is not the usual one
        gain = GAIN * spread / math.sqrt(D) * stretch
        head.weight.copy_(gain * projection)
        offset = prompt_lse[layer] - GAIN * COSINE
        head.bias.copy_((offset * spread * math.sqrt(D) / length * stretch)[:, None].mul(bias).reshape(-1))
        cast(nn.Linear, adapter.query_heads[str(layer)]).weight.zero_()


@torch.no_grad()
def measure(model: PreTrainedModel, config: AdapterConfig, prompts: Sequence[Sequence[int]]) -> Measured:
    """What the model's attention does at each prompt's end.

    It attends to one triple that every row hides, so what it returns is the prompt's alone.
    """
    found = Measured({}, {})
    for layer in config.knowledge_layers:
        probe = KnowledgeAdapter(
            dataclasses.replace(config, evidence_layer=layer, question_head=None, base_signature=None)
        ).float()
        attachment = attach(model, probe)
        device = attachment.device
        ids, mask, ends = right_padded(prompts, attachment.input_device)
        flat = torch.zeros(1, config.out_dim, dtype=model.dtype, device=device)
        hidden = torch.full((1,), -math.inf, dtype=torch.float32, device=device)
        at = (torch.arange(len(ends), device=device), slice(None), ends.to(device))

        def keep(layer: int = layer, at: Any = at, **attention: Any) -> None:
            found.prompt_lse[layer], found.scale[layer] = attention["lse"][at].float(), attention["scale"]

        with attachment.using(ProjectedKnowledge(flat, flat, probe.config), bias=hidden), attachment.observing(keep):
            model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
        detach(model)
    return found


def right_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, mask, last): int64 (B, N), bool (B, N), and the last place of each row, (B,)."""
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.bool)
    for line, row in enumerate(rows):
        ids[line, : len(row)], mask[line, : len(row)] = torch.tensor(row), True
    last = torch.tensor([len(row) - 1 for row in rows])
    return ids.to(device), mask.to(device), last.to(device)


@torch.no_grad()
def rescale_inputs(adapter: KnowledgeAdapter, scale: float) -> None:
    """Folds the factor on sentence vectors into the weights: afterwards the adapter takes vectors as they come."""
    linear = [adapter.key_projector, adapter.value_projector, *adapter.question_heads.values()]
    for module in linear:
        cast(nn.Linear, module).weight.mul_(scale)
    if adapter.config.question_head == "mlp":
        trunk = adapter.question_trunk
        cast(nn.Linear, trunk.up).weight.mul_(scale)
        cast(nn.Linear, trunk.down).weight.div_(scale)
        cast(nn.Linear, trunk.down).bias.div_(scale)
