"""The adapter's configuration: what it refuses, and the numbers that follow from it."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import MambaConfig

from kblam.adapter import AdapterConfig
from kblam.adapter.confidence import Confidence
from kblam.adapter.config import FORMAT_VERSION
from kblam.adapter.signature import Signature
from kblam.errors import AdapterConfigError, KblamError

WEIGHTS = {"mass": 1.0, "name": 5.0, "property": 2.0, "other": -1.0, "share": 0.5, "bias": -3.0}
GOOD: dict[str, Any] = {"embedding_dim": 16, "hidden_size": 32, "num_layers": 6, "num_heads": 4, "head_dim": 8}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        *(({name: 0}, f"{name} must be a whole number of at least 1; got 0") for name in GOOD),
        ({"num_heads": -4}, "num_heads must be .* got -4"),
        ({"head_dim": 8.5}, "head_dim must be a whole number .* got 8.5"),
        ({"head_dim": "8"}, "head_dim must be a whole number .* got '8'"),
        ({"head_dim": True}, "head_dim must be a whole number .* got True"),
        ({"head_dim": None}, "head_dim must be a whole number .* got None"),
        ({"question_head": "tree"}, "question_head must be one of linear, mlp, or None; got 'tree'"),
        ({"question_head": "mlp"}, "question_head 'mlp' needs question_hidden_dim >= 1; got 0"),
        ({"question_head": "linear", "separate_query_head": False}, "question_head needs separate_query_head"),
        ({"answer": "{name} is {value}"}, r"answer must contain \{property\} once"),
        ({"confidence": {"mass": 1.0}}, "confidence does not fit: .*missing 5 required"),
        ({"confidence": WEIGHTS | {"taste": 1.0}}, "confidence does not fit: .*'taste'"),
        (
            {"confidence": WEIGHTS | {"bias": math.nan}},
            "confidence.bias must be a finite number of at most a million; got nan",
        ),
        ({"confidence": WEIGHTS | {"mass": 1e30}}, "confidence.mass must be a finite number of at most a million"),
        ({"background": "price"}, "background must be a list of texts of at most 400 characters; got 'price'"),
        ({"background": ["price", " "]}, "background must be a list of texts"),
        ({"background": ["x" * 401]}, "background must be a list of texts"),
        ({"background": ["x"] * 10_001}, "background must be at most 10,000 texts; got 10,001"),
        ({"property_width": -1}, "property_width must be a whole number of at least 0; got -1"),
        ({"property_cosine": 1, "property_width": 8}, "property_cosine must be true or false; got 1"),
        ({"property_cosine": True}, "property_cosine needs a property_width"),
        ({"confidence": [1.0]}, r"confidence must be its weights by name, or None; got \[1.0\]"),
        ({"confidence": WEIGHTS | {"bias": "1"}}, "confidence.bias must be a finite number .*; got '1'"),
        ({"known_above": 1.5}, r"known_above must be a share of 0 \.\. 1, or None; got 1.5"),
        ({"layer_frequency": 0}, "layer_frequency must be .* got 0"),
        *(
            ({"layers": layers}, rf"layers must be different layers of 0 \.\. 5, ascending, or None; got {got}")
            for layers, got in [
                ((), r"\(\)"),
                ((6,), r"\(6,\)"),
                ((-1, 2), r"\(-1, 2\)"),
                ((4, 2), r"\(4, 2\)"),
                ((2, 2), r"\(2, 2\)"),
                ((True,), r"\(True,\)"),
                ((1.0,), r"\(1.0,\)"),
                ("2", "'2'"),
                (2, "2"),
            ]
        ),
        ({"layers": (2, 4), "evidence_layer": 3}, r"evidence_layer 3 is not a knowledge layer; those are \[2, 4\]"),
        (
            {"format_version": FORMAT_VERSION + 1},
            f"format version {FORMAT_VERSION + 1}, newer than {FORMAT_VERSION}.*upgrade kblam",
        ),
        ({"format_version": 10**400}, f"format version a number of 1,329 bits, newer than {FORMAT_VERSION}"),
        ({"format_version": "x"}, "format_version must be a whole number .* got 'x'"),
        ({"projector": "conv"}, "linear, mlp, identity; got 'conv'"),
        ({"projector": "mlp"}, "needs mlp_hidden_dim >= 1; got 0"),
        ({"projector": "mlp", "mlp_hidden_dim": 8, "mlp_depth": -1}, "mlp_depth must be .* got -1"),
        ({"projector": "identity"}, r"num_slots \* num_heads \* head_dim = 96; got 16"),
        ({"knowledge_scale": 0.0}, "knowledge_scale must be positive .* got 0.0"),
        ({"knowledge_scale": float("nan")}, "knowledge_scale must be positive .* got nan"),
        ({"knowledge_scale": float("inf")}, "knowledge_scale must be positive .* got inf"),
        ({"top_k": 0}, "top_k must be at least 1 or None; got 0"),
        ({"evidence_layer": 1}, r"evidence_layer 1 is not a knowledge layer; those are \[0, 3\]"),
        ({"prompt": "Q: "}, "prompt must contain {question}; got 'Q: '"),
    ],
    ids=str,
)
def test_refuses(bad: dict[str, Any], message: str) -> None:
    AdapterConfig(**GOOD)
    with pytest.raises(AdapterConfigError, match=message):
        AdapterConfig(**{**GOOD, **bad})
    # A file with the same mistake is refused in the same words.
    with pytest.raises(AdapterConfigError, match=message):
        AdapterConfig.from_dict({**GOOD, **bad})


# num_layers, frequency -> layers, slots. When the frequency divides the layers the last slot is never read.
@pytest.mark.parametrize(
    ("num_layers", "frequency", "layers", "slots"),
    [
        (32, 3, list(range(0, 32, 3)), 11),  # Llama-3-8B, Phi-3-mini
        (16, 3, [0, 3, 6, 9, 12, 15], 6),  # Llama-3.2-1B
        (6, 3, [0, 3], 3),
        (6, 1, [0, 1, 2, 3, 4, 5], 7),
        (2, 5, [0], 1),
        (1, 1, [0], 2),
    ],
)
def test_layers_and_slots_are_upstreams(num_layers: int, frequency: int, layers: list[int], slots: int) -> None:
    config = AdapterConfig(**{**GOOD, "num_layers": num_layers, "layer_frequency": frequency})
    assert config.knowledge_layers == layers
    assert config.num_slots == slots
    assert config.out_dim == slots * 4 * 8
    assert [config.slot_of(layer) for layer in layers] == list(range(len(layers)))


@pytest.mark.parametrize(("layers", "frequency"), [((2,), 3), ([1, 4, 5], 3), ((0, 5), 1)], ids=str)
def test_named_layers_have_one_slot_each(layers: Any, frequency: int) -> None:
    config = AdapterConfig(**GOOD, layers=layers, layer_frequency=frequency)
    assert config.knowledge_layers == list(layers)
    assert config.num_slots == len(layers)
    assert [config.slot_of(layer) for layer in layers] == list(range(len(layers)))
    assert config.evidence_layer in layers
    assert AdapterConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_evidence_comes_from_the_middle_layer_unless_named() -> None:
    # Upstream's official run retrieves at layer 15 of 32.
    assert AdapterConfig(**{**GOOD, "num_layers": 32}).evidence_layer == 15
    assert AdapterConfig(**GOOD, evidence_layer=0).evidence_layer == 0
    older = AdapterConfig(**GOOD).to_dict() | {"evidence_layer": None}
    assert AdapterConfig.from_dict(older) == AdapterConfig(**GOOD)


def test_a_file_holds_everything() -> None:
    rotated = AdapterConfig(
        **GOOD,
        layer_frequency=2,
        layers=(0, 2),
        projector="mlp",
        mlp_depth=1,
        mlp_hidden_dim=12,
        separate_query_head=False,
        knowledge_scale=100.0,
        top_k=5,
        evidence_layer=2,
        encoder="hashing:0:16",
        base_model="tiny",
        base_signature=(0.5, -0.25),
        prompt="{question}?",
        refusal="no",
    )
    asking = AdapterConfig(
        **GOOD,
        question_head="mlp",  # needs a separate query head
        question_hidden_dim=12,
        pointer=True,
        answer="{name}: {property} = {value}",
        known_above=0.5,
        confidence=Confidence(**WEIGHTS),
        property_width=8,
        property_cosine=True,
        property_layers=(2, 4),
        background=("price", "phone number"),
    )
    defaults = AdapterConfig(**GOOD)
    fields = {field.name for field in dataclasses.fields(defaults)}
    changed = {
        name for config in (rotated, asking) for name in fields if getattr(config, name) != getattr(defaults, name)
    }
    assert changed == fields - set(GOOD) - {"format_version"}
    for config in (rotated, asking):
        assert AdapterConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_signature_is_written_as_it_can_be_read() -> None:
    old = AdapterConfig(**GOOD, base_signature=[0.5, -0.25])
    assert old.to_dict()["base_signature"] == [0.5, -0.25], "as older releases write it"
    new = AdapterConfig(**GOOD, base_signature={"numbers": [0.5], "layers": ["AAEC", ""]})
    assert new.base_signature == Signature((0.5,), ("AAEC", ""))
    assert AdapterConfig.from_dict(json.loads(json.dumps(new.to_dict()))) == new
    for bad in (
        [],
        ["x"],
        [True],
        5,
        "x",
        {"numbers": [1], "layers": "AAEC"},
        {"numbers": [1], "layers": ["?"]},
        {"a": 1},
    ):
        with pytest.raises(AdapterConfigError, match="base_signature"):
            AdapterConfig(**GOOD, base_signature=bad)


def test_a_model_without_attention_is_refused() -> None:
    with pytest.raises(AdapterConfigError, match="MambaConfig says of no attention heads"):
        AdapterConfig.for_model(MambaConfig(), 16)


def test_every_field_has_help() -> None:
    assert all(field.metadata.get("help") for field in dataclasses.fields(AdapterConfig))


def test_unknown_keys_warn_and_are_left_out() -> None:
    with pytest.warns(UserWarning, match="ignoring unknown keys in the adapter's config: color, zest"):
        config = AdapterConfig.from_dict({**GOOD, "zest": 1, "color": "red"})
    assert config == AdapterConfig(**GOOD)


def test_unknown_keys_of_a_newer_format_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AdapterConfigError, match=f"format version 11, newer than {FORMAT_VERSION}; upgrade kblam"):
            AdapterConfig.from_dict({**GOOD, "format_version": 11, "zest": 1})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(AdapterConfigError, match=r"^the adapter's config lacks head_dim$"):
        AdapterConfig.from_dict({name: value for name, value in GOOD.items() if name != "head_dim"})


@pytest.mark.parametrize(("own", "expected"), [({"head_dim": 24}, 24), ({"head_dim": None}, 8), ({}, 8)], ids=str)
def test_for_model_reads_the_shapes_of_a_text_model(own: dict[str, Any], expected: int) -> None:
    text = SimpleNamespace(hidden_size=32, num_hidden_layers=6, num_attention_heads=4, **own)
    outer = SimpleNamespace(get_text_config=lambda: text)  # a model of several parts keeps its text config inside
    config = AdapterConfig.for_model(outer, 16, layer_frequency=2)
    assert config == AdapterConfig(**{**GOOD, "head_dim": expected, "layer_frequency": 2})


def test_errors_are_kblams() -> None:
    assert issubclass(AdapterConfigError, KblamError)
