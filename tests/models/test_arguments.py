"""Arguments of attach and of blocks that are of another kind than they have to be, and models changed after attach."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GenerationConfig

from kblam.errors import AdapterError, GenerationError, KnowledgeError, UnsupportedModelError
from kblam.models import attach, attachment_of, detach
from kblam_kernels import UnsupportedInputError
from tests.models.conftest import Tied, tie
from tests.models.tiny import PassesOn, close, logits, prompts, tiny_adapter, tiny_model, triples


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda model: None, "not to NoneType; load one with AutoModelForCausalLM"),
        (lambda model: "smollm2", "not to str; load one with AutoModelForCausalLM"),
        (lambda model: type(model), "not to LlamaForCausalLM; load one"),
        (lambda model: nn.Linear(2, 2), "not to Linear"),
        (nn.DataParallel, "not to DataParallel; attach to its .module"),
    ],
    ids=["nothing", "name", "class", "layer", "wrapper"],
)
def test_what_is_no_model_is_refused(tied: Tied, given: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        attach(given(tied.model), tied.adapter)
    assert attachment_of(tied.model) is tied.attachment


@pytest.mark.parametrize("given", [None, "my-adapter", {}], ids=str)
def test_what_is_no_adapter_is_refused(given: Any) -> None:
    with pytest.raises(AdapterError, match=r"must be a KnowledgeAdapter, got \w+; load a folder with Knowl"):
        attach(tiny_model(), given)


def test_weights_that_nothing_is_computed_in_are_refused() -> None:
    model = tiny_model()
    with pytest.raises(AdapterError, match=r"is torch.float8_e4m3fn, which nothing is computed in; call adapter.float"):
        attach(model, tiny_adapter(model).to(torch.float8_e4m3fn))


@pytest.mark.parametrize("name", ["int8_products", "trainable"])
def test_a_switch_is_true_or_false(name: str) -> None:
    model = tiny_model()
    options: Any = {name: "yes"}
    with pytest.raises(KnowledgeError, match=f"{name} must be True or False; got 'yes'"):
        attach(model, tiny_adapter(model), **options)


BAD: Any = {
    "text": ({"bias": "x"}, "bias must be a number or a tensor; got str"),
    "a list": ({"bias": [0.0] * 9}, "bias must be a number or a tensor; got list"),
    "no bias": ({"bias": None}, "bias must be a number or a tensor; got NoneType"),
    "NaN": ({"bias": torch.full((9,), torch.nan)}, "bias must be finite, or -inf where it hides a triple"),
    "infinity": ({"bias": torch.full((2, 9), torch.inf)}, "bias must be finite, or -inf where it hides a triple"),
    "ranges in lists": ({"knowledge_range": [[0, 2]]}, r"knowledge_range must be an int32 tensor \(B, 2\); got list"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_bias_and_no_range_is_refused(tied: Tied, name: str) -> None:
    options, words = BAD[name]
    with pytest.raises(KnowledgeError, match=words), tied.attachment.using(triples(tied.adapter, 9), **options):
        pass


def test_a_bias_beyond_float32_is_refused(tied: Tied) -> None:
    ids, mask = prompts()
    with (
        tied.attachment.using(triples(tied.adapter, 9), bias=1e300),
        pytest.raises(UnsupportedInputError, match=r"must be finite or -inf in float32; got 1e\+300"),
    ):
        logits(tied.model, ids, mask)


def other_attention(model: Any) -> None:
    model.model.layers[0].self_attn = copy.deepcopy(tiny_model().model.layers[0].self_attn)


def other_layer(model: Any) -> None:
    model.model.layers[2] = copy.deepcopy(tiny_model().model.layers[2])


def fewer_layers(model: Any) -> None:
    model.model.layers = model.model.layers[:2]


def layers_in_another_order(model: Any) -> None:
    layers = model.model.layers
    layers[0], layers[2] = layers[2], layers[0]


CHANGES = [other_attention, other_layer, fewer_layers, layers_in_another_order]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_layers_that_were_changed_after_attach_do_not_go_without_knowledge(change: Callable[[Any], None]) -> None:
    tied = tie()
    change(tied.model)
    with pytest.raises(KnowledgeError, match="the layers of this model are not those that the adapter was attached to"):
        tied.attachment.set_knowledge(triples(tied.adapter, 9))
    detach(tied.model)
    assert attachment_of(tied.model) is None


def test_an_adapter_is_attached_to_the_model_in_a_compiled_one() -> None:
    model, ids = tiny_model(), prompts(padding=0)[0]
    compiled: Any = torch.compile(model, backend="eager")
    adapter = tiny_adapter(model)
    attachment = attach(compiled, adapter)
    assert attachment.model is model
    assert attachment_of(compiled) is attachment
    with attachment.using(triples(adapter, 9)):
        expected = model.generate(ids, max_new_tokens=4, do_sample=False)
        assert torch.equal(compiled.generate(ids, max_new_tokens=4, do_sample=False), expected)


def test_an_adapter_is_attached_to_the_model_in_a_wrapper_that_passes_on_what_it_lacks() -> None:
    model, ids = tiny_model(), prompts(padding=0)[0]
    wrapper: Any = PassesOn(model)
    adapter = tiny_adapter(model)
    attachment = attach(wrapper, adapter)
    assert attachment.model is model
    assert attachment_of(wrapper) is attachment
    config = GenerationConfig(max_new_tokens=4, do_sample=False)
    with attachment.using(triples(adapter, 9)):
        expected = model.generate(ids, max_new_tokens=4, do_sample=False)
        found = wrapper.generate(ids, generation_config=config, logits_processor=[lambda ids, scores: scores])
        assert torch.equal(found, expected)
        with pytest.raises(GenerationError, match="temprature"):
            wrapper.generate(ids, temprature=0.5)
    assert attach(wrapper, adapter) is attachment
    detach(wrapper)
    assert attachment_of(model) is None
    assert not {"generate"} & (vars(model).keys() | vars(wrapper).keys())


def test_the_default_device_of_torch_is_not_where_anything_happens() -> None:
    ids, mask = prompts()
    expected = tie()
    with expected.attachment.using(triples(expected.adapter, 9)):
        known = logits(expected.model, ids, mask)
    model = tiny_model()
    adapter = tiny_adapter(model)
    knowledge = triples(adapter, 9)
    with torch.device("meta"):  # in place of a GPU that the model is not on
        attachment = attach(model, adapter)
        with attachment.using(knowledge):
            close(logits(model, ids, mask), known)


def test_an_adapter_with_quantised_projections_projects() -> None:
    model, ids = tiny_model(), prompts(padding=0)[0]
    adapter = tiny_adapter(model)
    small = torch.ao.quantization.quantize_dynamic(
        copy.deepcopy(adapter), {"key_projector", "value_projector"}, dtype=torch.qint8
    )
    vectors = torch.randn(9, 16).half()
    made = small.project(vectors, vectors)
    close(made.keys, adapter.project(vectors, vectors).keys, tolerance=0.1)
    with attach(model, small).using(made):
        assert logits(model, ids).isfinite().all()
