"""The proof at attach: families are served by what their attention does in a forward pass."""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.llama import modeling_llama

from kblam.errors import AdapterError, KnowledgeError, UnsupportedModelError
from kblam.models import attach, attachment_of
from kblam.models.proof import _window_of
from tests.models.tiny import (
    WINDOW,
    close,
    differ,
    logits,
    prompts,
    select,
    stepwise,
    tiny_adapter,
    tiny_model,
    triples,
)

IDS, MASK = prompts(length=14)
MOE = {"num_experts_per_tok": 2}
# Their attention is not told of the window: only their mask has it.
IN_THE_MASK: list[Any] = [
    pytest.param(
        "qwen2_moe",
        {
            **MOE,
            "num_experts": 4,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 1,
        },
        id="qwen2_moe",
    ),
    pytest.param("phimoe", {**MOE, "num_local_experts": 4, "sliding_window": WINDOW}, id="phimoe"),
]


@pytest.mark.parametrize(("family", "shape"), IN_THE_MASK)
def test_a_window_that_lives_in_the_mask_is_kept(family: str, shape: dict[str, Any]) -> None:
    model = tiny_model(family, **shape)
    attachment = attach(model, tiny_adapter(model))
    assert WINDOW in attachment.windows
    base = logits(model, IDS, MASK)
    knowledge = triples(attachment.adapter, 5)
    with attachment.using(select(knowledge, [])):
        close(logits(model, IDS, MASK), base)
        from transformers import DynamicCache

        close(stepwise(model, IDS, MASK, DynamicCache(config=model.config), [9, 1, 4]), base)
    with attachment.using(knowledge):
        assert differ(logits(model, IDS, MASK), base)


def test_a_window_that_the_mask_does_not_have_is_refused() -> None:
    """Which of the two its own attention follows depends on the implementation."""
    shape = {**MOE, "num_experts": 4, "sliding_window": WINDOW}
    model = tiny_model("olmoe", **shape)
    with pytest.raises(UnsupportedModelError, match=rf"a mask with no window, and tells its attention {WINDOW}"):
        attach(model, tiny_adapter(model))
    model = tiny_model("olmoe", **shape | {"sliding_window": None})
    assert attach(model, tiny_adapter(model)).windows == (None,) * 4


def patched_attention(monkeypatch: pytest.MonkeyPatch, change: Any) -> PreTrainedModel:
    """A Llama whose attention calls the attention function through `change(function)`."""
    real = modeling_llama.ALL_ATTENTION_FUNCTIONS.get_interface

    class Interface:
        @staticmethod
        def get_interface(name: str, default: Any) -> Any:
            return change(real(name, default))

    model = tiny_model()
    monkeypatch.setattr(modeling_llama, "ALL_ATTENTION_FUNCTIONS", Interface)
    return model


def twice(function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        first, second = function(*args, **kwargs), function(*args, **kwargs)
        return first[0] - 0.5 * second[0], None

    return call


def capped(function: Any) -> Any:
    return lambda *args, **kwargs: function(
        *args, **kwargs, **({"softcap": 30.0} if "knowledge_call" in kwargs else {})
    )


def test_two_attentions_in_a_layer_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = patched_attention(monkeypatch, twice)
    with pytest.raises(UnsupportedModelError, match=r"layer 0 of this LlamaForCausalLM attends 2 times"):
        attach(model, tiny_adapter(model))
    assert attachment_of(model) is None
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_scores_that_are_changed_are_refused_whatever_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    model = patched_attention(monkeypatch, capped)
    with pytest.raises(UnsupportedModelError, match="passes softcap to its attention"):
        attach(model, tiny_adapter(model))


def test_a_model_whose_code_fails_with_knowledge_layers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Doge does in transformers 5.17, which indexes a mask of another form."""

    def wanting(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if "knowledge_call" in kwargs:
                raise IndexError("too many indices for tensor of dimension 2")
            return function(*args, **kwargs)

        return call

    model = patched_attention(monkeypatch, wanting)
    with pytest.raises(UnsupportedModelError, match=r"the code of this LlamaForCausalLM fails \(IndexError: too many"):
        attach(model, tiny_adapter(model))
    assert attachment_of(model) is None


def test_a_refusal_leaves_what_was_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    before = attach(model, tiny_adapter(model))
    with monkeypatch.context() as patch:
        patched_attention(patch, capped)
        with pytest.raises(UnsupportedModelError):
            attach(model, tiny_adapter(model, seed=5))
    assert attachment_of(model) is before
    base = logits(model, IDS, MASK)
    with before.using(triples(before.adapter, 5)):
        assert differ(logits(model, IDS, MASK), base)


@pytest.mark.parametrize(
    "overlay", [{"or_mask_function": lambda b, h, q, k: k < 2}, {"and_mask_function": lambda b, h, q, k: k > q - 3}]
)
def test_a_mask_that_hides_something_else_is_refused(overlay: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    made = functools.partial(modeling_llama.create_causal_mask, **overlay)
    monkeypatch.setattr(modeling_llama, "create_causal_mask", made)
    with pytest.raises(KnowledgeError, match="or the model asks for a mask of its own"):
        attach(model, tiny_adapter(model))


MASKS: list[tuple[Any, int | None]] = [
    (lambda b, h, q, k: (k <= q) & (q // 4 == k // 4), None),
    (lambda b, h, q, k: (k <= q) | (k < 2), None),
    (lambda b, h, q, k: k < q, None),
    (lambda b, h, q, k: (k <= q) & (q - k <= 6), 6),
    (lambda b, h, q, k: (k <= q) & (q - k < 5), 6),
    (lambda b, h, q, k: k <= q, 6),
]


@pytest.mark.parametrize(("function", "window"), MASKS)
def test_a_mask_is_causal_with_the_window_that_it_tells_or_refused(function: Any, window: int | None) -> None:
    with pytest.raises(UnsupportedModelError, match="mask hides more or less than a causal one with a sliding window"):
        _window_of(SimpleNamespace(asked_for=(function, window)))
    assert _window_of(SimpleNamespace(asked_for=(lambda b, h, q, k: k <= q, None))) is None
    assert _window_of(SimpleNamespace(asked_for=(lambda b, h, q, k: (k <= q) & (q - k < 6), 6))) == 6


def test_attention_that_differs_without_knowledge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def louder_under_another_name(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
            output, weights = function(*args, **kwargs)
            return (output if "knowledge_call" in kwargs else 1.5 * output), weights

        return call

    model = patched_attention(monkeypatch, louder_under_another_name)
    with pytest.raises(UnsupportedModelError, match="does not give its own hidden states"):
        attach(model, tiny_adapter(model))


def test_an_adapter_that_changes_nothing_is_named() -> None:
    model = tiny_model()
    adapter = tiny_adapter(model, knowledge_scale=1e-30)
    with pytest.warns(UserWarning, match="this adapter changes nothing of what this LlamaForCausalLM says"):
        attach(model, adapter)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(model, tiny_adapter(model))
        attach(model, adapter, trainable=True)  # it may learn


@pytest.mark.parametrize("embeddings", ["cpu", "disk"])
def test_an_offloaded_model_is_served_where_it_computes(embeddings: str, tmp_path: Path) -> None:
    whole = tiny_model()
    adapter = tiny_adapter(whole)
    attachment = attach(whole, adapter)
    knowledge = triples(adapter, 5)
    with attachment.using(knowledge):
        expected = logits(whole, IDS, MASK)
    whole.save_pretrained(tmp_path)
    places = {"model.embed_tokens": embeddings, "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{layer}": "disk" if layer % 2 == 0 else "cpu" for layer in range(4)}
    with tempfile.TemporaryDirectory() as offload:
        model = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=places, offload_folder=offload).eval()
        attachment = attach(model, tiny_adapter(whole))
        assert attachment.device == torch.device("cpu")
        with attachment.using(knowledge):
            close(logits(model, IDS, MASK), expected)


def test_an_adapter_without_weights_is_named() -> None:
    model = tiny_model()
    with pytest.raises(AdapterError, match=r"the adapter's weights are not loaded \(meta device\)"):
        attach(model, tiny_adapter(model).to("meta"))
