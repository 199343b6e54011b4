"""An attached model under autocast, where what reaches attention has two precisions."""

from __future__ import annotations

import pytest
import torch

from tests.models.conftest import tie
from tests.models.tiny import differ, logits, prompts, triples


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_attention_takes_mixed_precision(family: str) -> None:
    tied = tie(family, knowledge_scale=4.0)
    ids, mask = prompts()
    knowledge = triples(tied.adapter, 9)
    with tied.attachment.using(knowledge):
        exact = logits(tied.model, ids, mask)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = logits(tied.model, ids, mask)
    with torch.autocast("cpu", torch.bfloat16):
        without = logits(tied.model, ids, mask)
    scale = exact.abs().max()
    assert (mixed - exact).abs().max() / scale < 0.03
    assert differ(mixed / scale, without / scale, by=0.1), "it sees the knowledge"


def test_the_adapter_learns_under_autocast() -> None:
    tied = tie(knowledge_scale=4.0)
    tied.adapter.requires_grad_(True)
    ids, mask = prompts()
    knowledge = triples(tied.adapter, 9)
    with torch.autocast("cpu", torch.bfloat16), tied.attachment.using(knowledge):
        tied.model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
    for name, parameter in tied.adapter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
