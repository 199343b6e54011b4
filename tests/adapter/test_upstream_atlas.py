"""Import of AtlasKV's checkpoints: its names, what its record says, and what of it cannot be imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kblam.adapter import AdapterConfig
from kblam.adapter.upstream import base_weights, load_upstream
from kblam.errors import AdapterFormatError
from tests.adapter.atlas_checkpoint import (
    ATLAS_HEAD,
    AtlasCheckpoint,
    assert_holds_atlas,
    atlas_encoder,
)
from tests.adapter.upstream_checkpoint import (
    FREQUENCY,
    HEAD,
    HEADS,
    HIDDEN,
    LAYERS,
    OUT_DIM,
    P,
    assert_holds,
    encoder_state,
    head_state,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> AtlasCheckpoint:
    return AtlasCheckpoint(tmp_path)


def test_an_atlaskv_checkpoint_loads_from_its_folder_alone(checkpoint: AtlasCheckpoint) -> None:
    adapter = load_upstream(checkpoint.folder)
    assert_holds_atlas(adapter, checkpoint)
    assert adapter.config == AdapterConfig(
        embedding_dim=P,
        hidden_size=HIDDEN,
        num_layers=LAYERS,
        num_heads=HEADS,
        head_dim=HIDDEN // HEADS,
        layer_frequency=FREQUENCY,
        base_model="meta-llama/tiny",
    )


def test_its_mlp_projector(checkpoint: AtlasCheckpoint) -> None:
    checkpoint.write_encoder(atlas_encoder(hidden=7, depth=1))
    adapter = load_upstream(checkpoint.folder)
    assert (adapter.config.projector, adapter.config.mlp_depth, adapter.config.mlp_hidden_dim) == ("mlp", 1, 7)
    for name, tensor in checkpoint.encoder.items():
        assert torch.equal(adapter.get_parameter(name), tensor), name


def test_its_own_runs_of_plain_kblam_mix_the_names(checkpoint: AtlasCheckpoint) -> None:
    """Without --use_kg its encoder has AtlasKV's names and its model KBLaM's."""
    checkpoint.write_settings(use_kg=False, top_k_kb=100)
    checkpoint.write_heads(head_state())
    assert_holds_atlas(load_upstream(checkpoint.folder), checkpoint, HEAD)


def test_an_encoder_from_before_the_names_changed(checkpoint: AtlasCheckpoint) -> None:
    checkpoint.write_encoder(encoder_state())
    adapter = load_upstream(checkpoint.folder)
    checkpoint.heads = {name.replace("q_proj_kg", "q_proj_new"): tensor for name, tensor in checkpoint.heads.items()}
    assert_holds(adapter, checkpoint)


def test_its_query_head_file(checkpoint: AtlasCheckpoint, tmp_path: Path) -> None:
    (checkpoint.folder / "model.safetensors").unlink()
    heads = {f"layer_{layer}": {"weight": checkpoint.heads[ATLAS_HEAD.format(layer)]} for layer in range(LAYERS)}
    torch.save(heads, tmp_path / "heads.pth")
    assert_holds_atlas(load_upstream(checkpoint.folder, query_head_path=tmp_path / "heads.pth"), checkpoint)


def test_its_attention_ignores_dynamic_sparsify_and_so_does_the_import(checkpoint: AtlasCheckpoint) -> None:
    checkpoint.write_settings(dynamic_sparsify=True, top_k_kb=9)
    assert load_upstream(checkpoint.folder).config.top_k is None
    assert load_upstream(checkpoint.folder, top_k=4).config.top_k == 4
    checkpoint.write_settings(dynamic_sparsify=True, top_k_kb=9, use_kg=False)
    assert load_upstream(checkpoint.folder).config.top_k == 9


def test_base_weights_leave_its_query_heads_out(checkpoint: AtlasCheckpoint) -> None:
    own = {"model.layers.0.self_attn.q_proj.weight": torch.ones(HIDDEN, HIDDEN)}
    checkpoint.write_heads(checkpoint.heads | own)
    assert dict(base_weights(checkpoint.folder)).keys() == own.keys()


def test_hierarchical_pruning_is_refused_by_name(checkpoint: AtlasCheckpoint) -> None:
    checkpoint.write_settings(use_hierarchial_kv=True)
    with pytest.raises(AdapterFormatError, match=r"kb_config_explicit\.json: use_hierarchial_kv is true.* set it to f"):
        load_upstream(checkpoint.folder)
    checkpoint.write_settings(use_hierarchial_kv=False)  # the fix that the message names
    assert_holds_atlas(load_upstream(checkpoint.folder), checkpoint)


BROKEN: dict[str, tuple[Callable[[AtlasCheckpoint], object], str]] = {
    "two-encoders": (
        lambda c: c.write_encoder(c.encoder | encoder_state()),
        r"encoder\.pt holds projectors of microsoft/KBLaM and of AtlasKV",
    ),
    "two-query-heads": (
        lambda c: c.write_heads(c.heads | head_state()),
        "run_step_3000 holds query heads of microsoft/KBLaM and of AtlasKV",
    ),
    "switch": (lambda c: c.write_settings(use_hierarchial_kv="no"), "use_hierarchial_kv must be .* got 'no'"),
    "kg-switch": (lambda c: c.write_settings(use_kg=1), "use_kg must be true or false; got 1"),
    "half-an-encoder": (
        lambda c: c.write_encoder({k: v for k, v in c.encoder.items() if not k.startswith("value")}),
        "missing or unexpected: value_projector.bias, value_projector.weight",
    ),
    "projector-shape": (
        lambda c: c.write_encoder(c.encoder | {"key_projector.bias": torch.ones(3)}),
        rf"key_projector.bias must have shape \({OUT_DIM},\); got \(3,\)",
    ),
    # Its train.py offers linear and mlp; an identity would leave nothing at all in the file.
    "empty-encoder": (lambda c: c.write_encoder({}), "no projector_k, key_projector or embedding tensor, but nothing"),
    "a-layer-lost": (
        lambda c: c.write_heads({k: v for k, v in c.heads.items() if ".3." not in k}),
        r"has no model.layers.i.self_attn.q_proj_kg.weight for knowledge layers i in \[3\]",
    ),
    "biased": (
        lambda c: c.write_heads(c.heads | {ATLAS_HEAD.format(0).replace("weight", "bias"): torch.ones(HIDDEN)}),
        "q_proj_kg.bias exists",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_refused_in_its_names(checkpoint: AtlasCheckpoint, case: str) -> None:
    damage, message = BROKEN[case]
    damage(checkpoint)
    with pytest.raises(AdapterFormatError, match=message):
        load_upstream(checkpoint.folder)
