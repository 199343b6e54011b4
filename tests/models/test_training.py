"""Gradients through an attached model: to the adapter, and nowhere else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from kblam.errors import KnowledgeError
from tests.models.conftest import Tied, tie
from tests.models.tiny import EMBEDDING_DIM, prompts

EMBEDDINGS = torch.randn(2, 9, EMBEDDING_DIM, generator=torch.Generator().manual_seed(0))


def trainable(family: str = "llama", **options: object) -> Tied:
    tied = tie(family, **options)
    tied.model.requires_grad_(False).train()
    tied.adapter.requires_grad_(True)
    return tied


def loss_of(tied: Tied, keys: Tensor = EMBEDDINGS[0], values: Tensor = EMBEDDINGS[1]) -> Tensor:
    ids, mask = prompts()
    labels = ids.masked_fill(mask == 0, -100)
    with tied.attachment.using(tied.adapter.project(keys, values)):
        loss: Tensor = tied.model(ids, attention_mask=mask, labels=labels).loss
    return loss


def gradients(tied: Tied) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in tied.adapter.named_parameters() if p.grad is not None}


def save_activations(tied: Tied) -> None:
    """Turns checkpointing on: layers run again during backward."""
    # The newest transformers has the first name and warns at the second; the oldest has the second only.
    model = tied.model
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.enable_input_require_grads()


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_every_weight_of_the_adapter_learns_and_none_of_the_model(family: str) -> None:
    tied = trainable(family)
    loss_of(tied).backward()
    found = gradients(tied)
    assert found.keys() == dict(tied.adapter.named_parameters()).keys()
    assert all(gradient.isfinite().all() and gradient.any() for gradient in found.values())
    assert all(p.grad is None for p in tied.model.parameters())


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    tied = trainable()
    tied.model.double()
    tied.adapter.double()
    keys, values = EMBEDDINGS.double()
    loss_of(tied, keys, values).backward()
    for name, p in tied.adapter.named_parameters():
        assert p.grad is not None
        direction = torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype)
        slope, step = (p.grad * direction).sum().item(), 2e-3
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(direction, alpha=sign * step)
                losses.append(loss_of(tied, keys, values).item())
                p.sub_(direction, alpha=sign * step)
        assert slope == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=5e-3, abs=2e-3), name


def test_checkpointing_gives_the_same_gradients() -> None:
    plain, saving = trainable(), trainable()
    loss_of(plain).backward()
    save_activations(saving)
    # The forward pass runs again during backward, so the knowledge must still be in force.
    projected = saving.adapter.project(*EMBEDDINGS)
    ids, mask = prompts()
    with saving.attachment.using(projected):
        saving.model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(saving)[name], gradient, msg=name)
    # After the block the layers would run without knowledge.
    with pytest.raises(KnowledgeError, match=r"call backward\(\) inside the block"):
        loss_of(saving).backward()


def test_knowledge_goes_along_to_the_thread_that_runs_backward() -> None:
    """Where layers run again, in a thread that has no block of its own."""
    plain, saving = trainable(), trainable()
    loss_of(plain).backward()
    save_activations(saving)
    ids, mask = prompts()
    with saving.attachment.using(saving.adapter.project(*EMBEDDINGS)), ThreadPoolExecutor(1) as other:
        loss = saving.model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        other.submit(loss.backward).result()
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(saving)[name], gradient, msg=name)


def test_a_few_steps_lower_the_loss() -> None:
    tied = trainable(knowledge_scale=9.0)
    optimizer = torch.optim.AdamW(tied.adapter.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = loss_of(tied)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2


def test_top_k_trains_the_chosen(tied: Tied) -> None:
    tied = trainable(top_k=3)
    keys = EMBEDDINGS[0].clone().requires_grad_()
    values = EMBEDDINGS[1].clone().requires_grad_()
    loss_of(tied, keys, values).backward()
    assert values.grad is not None
    assert 0 < (values.grad.abs().sum(-1) > 0).sum() <= 2 * 2 * 3  # two rows and two layers choose three each
