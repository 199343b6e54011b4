"""Attaching and detaching: idempotent, undoable, and what is refused."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from kblam.adapter import KnowledgeAdapter
from kblam.errors import KnowledgeError, UnsupportedModelError
from kblam.models import attach, attachment_of, detach
from tests.models.conftest import Tied, tie
from tests.models.tiny import close, differ, logits, prompts, tiny_adapter, tiny_model, triples


def hooks(model: Any) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def implementation(model: Any) -> str:
    return str(model.model.config._attn_implementation)


def test_attaching_again_is_the_same_attachment(tied: Tied) -> None:
    count = hooks(tied.model)
    assert count == 5, "of the decoder and its four layers"
    assert attach(tied.model, tied.adapter) is tied.attachment
    assert hooks(tied.model) == count
    assert attachment_of(tied.model) is tied.attachment


def test_another_adapter_takes_its_place(tied: Tied) -> None:
    ids, _ = prompts()
    other = tiny_adapter(tied.model, seed=9)
    with attach(tied.model, other).using(triples(other, 9)):
        replaced = logits(tied.model, ids)
    assert hooks(tied.model) == 5
    fresh = tie()
    with attach(fresh.model, tiny_adapter(fresh.model, seed=9)).using(triples(other, 9)):
        assert torch.equal(logits(fresh.model, ids), replaced)


def test_another_backend_is_another_attachment(tied: Tied) -> None:
    other = attach(tied.model, tied.adapter, backend="reference")
    assert other is not tied.attachment
    assert other.options.backend == "reference"


def test_an_adapter_that_does_not_fit_leaves_what_was_attached(tied: Tied) -> None:
    wide = tiny_adapter(tiny_model(hidden_size=64))
    ids, _ = prompts()
    with tied.attachment.using(triples(tied.adapter, 9)):
        before = logits(tied.model, ids)
        with pytest.raises(UnsupportedModelError, match="hidden_size=64, this model has 32"):
            attach(tied.model, wide)
        assert attachment_of(tied.model) is tied.attachment
        assert torch.equal(logits(tied.model, ids), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 6}, "num_layers=6, this model has 4"),
        ({"num_attention_heads": 8, "head_dim": 8}, "num_heads=8, this model has 4"),
        ({"head_dim": 16}, "head_dim=16, this model has 8"),
    ],
    ids=["layers", "heads", "width"],
)
def test_an_adapter_of_another_shape_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{message}.*base model: big"):
        attach(tiny_model(), tiny_adapter(tiny_model(**changes), base_model="big"))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_detaching_leaves_no_trace(attention: str) -> None:
    model = tiny_model(attention=attention)
    names, config = set(vars(model)), copy.deepcopy(model.config.to_dict())
    keys = list(model.state_dict())
    adapter = tiny_adapter(model)
    attachment = attach(model, adapter)
    attachment.set_knowledge(triples(adapter, 9))
    assert implementation(model) == "kblam"
    assert list(model.state_dict()) == keys
    assert len(list(model.modules())) == len(list(tiny_model().modules()))
    assert detach(model) is model
    assert hooks(model) == 0
    assert implementation(model) == attention
    assert attachment_of(model) is None
    assert set(vars(model)) == names
    assert model.config.to_dict() == config
    detach(model)  # nothing to do


def test_an_attachment_that_was_detached_says_so(tied: Tied) -> None:
    detach(tied.model)
    with pytest.raises(KnowledgeError, match="detached or replaced"):
        tied.attachment.set_knowledge(triples(tied.adapter, 9))
    attach(tied.model, tiny_adapter(tied.model))
    with pytest.raises(KnowledgeError, match="detached or replaced"):
        tied.attachment.set_knowledge(triples(tied.adapter, 9))


def test_saved_and_loaded_it_gives_the_same_logits(tied: Tied, tmp_path: Path) -> None:
    ids, mask = prompts()
    knowledge = triples(tied.adapter, 9)
    with tied.attachment.using(knowledge):
        before = logits(tied.model, ids, mask)
    tied.adapter.save_pretrained(tmp_path)
    detach(tied.model)
    loaded = KnowledgeAdapter.from_pretrained(tmp_path)
    with attach(tied.model, loaded).using(triples(loaded, 9)):
        assert torch.equal(logits(tied.model, ids, mask), before)


def test_a_model_saved_with_knowledge_in_force_is_the_base_model(tied: Tied, tmp_path: Path) -> None:
    ids, _ = prompts()
    base = logits(tied.model, ids)
    tied.attachment.set_knowledge(triples(tied.adapter, 9))
    tied.model.save_pretrained(tmp_path)
    again = type(tied.model).from_pretrained(tmp_path).eval()
    assert implementation(again) == "sdpa"
    assert torch.equal(logits(again, ids), base)


def test_using_puts_back_what_was_in_force(tied: Tied) -> None:
    ids, _ = prompts()
    base = logits(tied.model, ids)
    outer, inner = triples(tied.adapter, 9), triples(tied.adapter, 5, seed=8)
    bias = torch.linspace(-1, 1, 9)
    with tied.attachment.using(outer, bias=bias):
        before = logits(tied.model, ids)
        with tied.attachment.using(inner):
            assert tied.attachment.knowledge is inner
            assert differ(logits(tied.model, ids), before)
        with tied.attachment.using(None):
            assert tied.attachment.knowledge is None
            assert torch.equal(logits(tied.model, ids), base)
        with pytest.raises(RuntimeError, match="stop"), tied.attachment.using(inner):
            raise RuntimeError("stop")
        assert torch.equal(logits(tied.model, ids), before)
        with pytest.raises(KnowledgeError), tied.attachment.using(inner.to(torch.float16)):
            pass
        assert torch.equal(logits(tied.model, ids), before)
    assert tied.attachment.knowledge is None
    assert implementation(tied.model) == "sdpa"


def test_the_base_is_what_the_user_chose_last(tied: Tied) -> None:
    tied.model.set_attn_implementation("eager")
    with tied.attachment.using(triples(tied.adapter, 9)):
        pass
    assert implementation(tied.model) == "eager"


def test_another_attention_chosen_under_knowledge_is_refused(tied: Tied) -> None:
    ids, _ = prompts()
    tied.attachment.set_knowledge(triples(tied.adapter, 9))
    tied.model.set_attn_implementation("eager")
    # The knowledge would be left out without a word.
    with pytest.raises(KnowledgeError, match="became 'eager' while knowledge was in force"):
        logits(tied.model, ids)


def test_the_adapter_follows_the_model(tied: Tied) -> None:
    ids, _ = prompts()
    tied.model.to(torch.bfloat16)
    knowledge = triples(tied.adapter, 9)
    with pytest.raises(KnowledgeError, match=r"is torch\.float32 on cpu, the model torch\.bfloat16 on cpu"):
        tied.attachment.set_knowledge(knowledge)
    with tied.attachment.using(knowledge.to(torch.bfloat16)):
        half = logits(tied.model, ids)
    assert half.dtype == torch.bfloat16
    assert {p.dtype for p in tied.adapter.query_heads.parameters()} == {torch.bfloat16}
    assert tied.adapter.key_projector.weight.dtype == torch.float32
    full = tie()
    with full.attachment.using(knowledge):
        close(half.float(), logits(full.model, ids), 0.5)


def test_two_models_do_not_meet(tied: Tied) -> None:
    ids, _ = prompts()
    other = tie(seed=7)
    base = logits(other.model, ids)
    with tied.attachment.using(triples(tied.adapter, 9)):
        assert torch.equal(logits(other.model, ids), base)
        assert attachment_of(other.model) is other.attachment


@pytest.mark.parametrize("where", ["follow", "prove"])
def test_an_adapter_that_does_not_fit_leaves_the_other_one_and_its_default(
    where: str, tied: Tied, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, _ = prompts()
    tied.attachment.set_knowledge(triples(tied.adapter, 9))
    before = logits(tied.model, ids)

    def no_memory(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    module = importlib.import_module("kblam.models.attach")
    with monkeypatch.context() as patch:
        patch.setattr(*((module, "prove") if where == "prove" else (module.Attachment, "follow")), no_memory)
        with pytest.raises(torch.OutOfMemoryError):
            attach(tied.model, tiny_adapter(tied.model, seed=5))
    assert attachment_of(tied.model) is tied.attachment
    assert implementation(tied.model) == "kblam"
    assert torch.equal(logits(tied.model, ids), before)
    detach(tied.model)
    assert implementation(tied.model) != "kblam"
