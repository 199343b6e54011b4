"""Copies of an attached model: they keep the knowledge or raise, and never answer without it in silence."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kblam.errors import KnowledgeError
from kblam.knowledge import KnowledgeBase, Triple
from kblam.models import attach, attachment_of, detach
from kblam.models.copies import resident_for
from kblam.models.generate_check import CHECKED
from kblam.models.weights import state_of
from tests.fakes import HashingEncoder
from tests.models.conftest import Tied, tie
from tests.models.tiny import EMBEDDING_DIM, close, differ, logits, prompts, tiny_adapter, tiny_model, triples

IDS, MASK = prompts()


def base_of(tied: Tied) -> torch.Tensor:
    with tied.attachment.using(None):
        return logits(tied.model, IDS, MASK)


def saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.fixture
def kb() -> Any:
    facts = [Triple(f"n{number}", "p", f"v{number}") for number in range(5)]
    with KnowledgeBase.from_triples(facts, HashingEncoder(EMBEDDING_DIM)) as made:
        yield made


@pytest.mark.parametrize("twin_of", [copy.deepcopy, saved])
def test_a_default_comes_along(twin_of: Callable[[Any], Any], tied: Tied) -> None:
    base = base_of(tied)
    tied.attachment.set_knowledge(triples(tied.adapter, 9))
    for _ in range(3):  # what a call remembers between steps does not
        expected = logits(tied.model, IDS, MASK)
    twin = twin_of(tied.model)
    assert torch.equal(logits(twin, IDS, MASK), expected)
    tied.attachment.set_knowledge(None)
    assert torch.equal(logits(twin, IDS, MASK), expected)
    attachment_of(twin).set_knowledge(None)
    assert torch.equal(logits(twin, IDS, MASK), base)
    assert detach(twin).config._attn_implementation == "sdpa"


def test_a_knowledge_base_in_force_is_copied_but_not_pickled(tied: Tied, kb: KnowledgeBase) -> None:
    tied.attachment.set_knowledge(resident_for(tied.attachment, kb))
    expected = logits(tied.model, IDS, MASK)
    twin = copy.deepcopy(tied.model)
    assert torch.equal(logits(twin, IDS, MASK), expected)
    with pytest.raises(KnowledgeError, match=r"cannot be pickled .*set_knowledge\(None\) first"):
        torch.save(tied.model, io.BytesIO())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("twin_of", [copy.deepcopy, saved])
def test_a_copy_made_under_knowledge_has_the_models_own_attention(
    twin_of: Callable[[Any], Any], attention: str
) -> None:
    model = tiny_model(attention=attention)
    attachment = attach(model, tiny_adapter(model))
    base = logits(model, IDS, MASK)
    with attachment.using(triples(attachment.adapter, 9)):
        twin = twin_of(model)
    assert torch.equal(logits(twin, IDS, MASK), base)
    assert attachment_of(twin).implementation == attention
    with attachment_of(twin).using(triples(attachment.adapter, 9)):
        assert differ(logits(twin, IDS, MASK), base)
    assert torch.equal(logits(twin, IDS, MASK), base)


def test_models_that_share_a_decoder_share_the_attachment(tied: Tied) -> None:
    shallow = copy.copy(tied.model)
    assert attachment_of(shallow) is tied.attachment
    other = attach(shallow, tiny_adapter(tied.model, seed=5))
    assert attachment_of(tied.model) is other
    with pytest.raises(KnowledgeError, match="detached or replaced"), tied.attachment.using(triples(tied.adapter, 3)):
        pass
    detach(tied.model)
    assert attachment_of(shallow) is None


def test_each_model_that_shares_a_decoder_checks_its_own_generate() -> None:
    """Else a bias for each row of the prompt is one for each beam there: refused, or taken for another row's."""
    tied = tie()
    other = type(tied.model)(tied.model.config)
    other.model, other.lm_head = tied.model.model, tied.model.lm_head
    biases = torch.zeros(2, 9)
    biases[0, :5] = biases[1, 5:] = -torch.inf
    given: dict[str, Any] = {"attention_mask": MASK[:2], "max_new_tokens": 4, "num_beams": 2, "do_sample": False}

    def generated(attachment: Any, model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with attachment.using(triples(tied.adapter, 9), bias=biases):
            found: torch.Tensor = model.generate(ids, **{**given, "attention_mask": mask})
        return found

    assert attach(other, tied.adapter) is tied.attachment
    expected = generated(tied.attachment, tied.model, IDS[:2], MASK[:2])
    assert torch.equal(generated(tied.attachment, other, IDS[:2], MASK[:2]), expected)
    with pytest.raises(KnowledgeError, match="bias has 2 rows and the batch 2, 2 for each row of generate's prompt"):
        generated(tied.attachment, other, IDS[:1], MASK[:1])
    replaced = attach(other, tiny_adapter(tied.model, seed=5))
    expected = generated(replaced, other, IDS[:2], MASK[:2])
    assert torch.equal(generated(replaced, tied.model, IDS[:2], MASK[:2]), expected)
    detach(other)
    detach(tied.model)
    assert not CHECKED.keys() & {*vars(other), *vars(tied.model)}


def test_a_dynamically_quantised_model_keeps_the_knowledge(tied: Tied) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin = torch.ao.quantization.quantize_dynamic(tied.model, {nn.Linear}, dtype=torch.qint8)
    attachment = attachment_of(twin)
    assert attachment is not tied.attachment
    with attachment.using(None):
        base = logits(twin, IDS, MASK)
    with attachment.using(triples(tied.adapter, 9)):
        assert differ(logits(twin, IDS, MASK), base)
    again = attach(twin, tiny_adapter(tied.model, seed=5))
    with again.using(triples(tied.adapter, 9)):
        assert differ(logits(twin, IDS, MASK), base)


def train(adapter: Any) -> None:
    with torch.no_grad():
        adapter.value_projector.weight.mul_(-1.5)


def load(adapter: Any) -> None:
    adapter.load_state_dict({name: -2 * tensor for name, tensor in adapter.state_dict().items()})


def write_data(adapter: Any) -> None:
    adapter.key_projector.weight.data.neg_()


def replace_module(adapter: Any) -> None:
    adapter.value_projector = nn.Linear(EMBEDDING_DIM, adapter.config.out_dim)


def hook(adapter: Any) -> None:
    adapter.value_projector.register_forward_hook(lambda module, args, output: 3 * output)


@pytest.mark.parametrize("change", [train, load, write_data, replace_module, hook])
@pytest.mark.parametrize("plan", ["dense", "latent", "auto"])
def test_a_copy_follows_the_weights_that_it_was_made_from(
    plan: str, change: Callable[[Any], None], kb: KnowledgeBase
) -> None:
    if plan == "latent" and change is hook:
        pytest.skip("there are no latents then")
    tied = tie()
    attachment = attach(tied.model, tied.adapter, plan=plan)
    with attachment.using(resident_for(attachment, kb)):
        before = logits(tied.model, IDS, MASK)
    change(tied.adapter)
    with attachment.using(resident_for(attachment, kb)):
        after = logits(tied.model, IDS, MASK)
    fresh = attach(tiny_model(), tied.adapter, plan=plan)
    with fresh.using(resident_for(fresh, kb)):
        close(after, logits(fresh.model, IDS, MASK))
    assert differ(after, before, by=1e-3)


def test_weights_that_stay_are_not_projected_again(tied: Tied, kb: KnowledgeBase) -> None:
    resident = resident_for(tied.attachment, kb)
    state, address = resident._weights, resident.layer(0).key.data_ptr()
    for _ in range(3):
        with tied.attachment.using(resident_for(tied.attachment, kb)):
            logits(tied.model, IDS, MASK)
    assert resident._weights is state
    assert resident.layer(0).key.data_ptr() == address
    assert state_of(tied.adapter).is_that_of(tied.adapter)
