"""Malformed upstream checkpoints: each is refused with the file, the value and the fix, and none runs code."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from kblam.adapter.upstream import base_weights, load_upstream
from kblam.errors import AdapterConfigError, AdapterFormatError
from tests.adapter.upstream_checkpoint import HEAD, HIDDEN, OUT_DIM, Checkpoint, encoder_state, head_state, write_shards


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path)


class _Code:
    """A pickle that would run code on load."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("pwned"),))


def _break_shape(name: str, shape: tuple[int, ...]) -> Callable[[Checkpoint], None]:
    return lambda c: c.write_encoder(c.encoder | {name: torch.randn(shape)})


def _without(name: str) -> Callable[[Checkpoint], None]:
    return lambda c: c.write_encoder({k: v for k, v in c.encoder.items() if k != name})


def _raw_encoder(content: bytes) -> Callable[[Checkpoint], object]:
    return lambda c: (c.encoder_folder / "encoder.pt").write_bytes(content)


def _in_folder(name: str, content: str) -> Callable[[Checkpoint], object]:
    return lambda c: (c.folder / name).write_text(content)


def _truncated_heads(c: Checkpoint) -> None:
    whole = (c.folder / "model.safetensors").read_bytes()
    (c.folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _lost_shard(c: Checkpoint) -> None:
    write_shards(c, "model.safetensors", save_file)
    (c.folder / "model-00002-of-00002.safetensors").unlink()


BROKEN = {
    "no-config": (lambda c: (c.folder / "config.json").unlink(), "config.json is missing"),
    "config-not-json": (_in_folder("config.json", "{"), "config.json is not readable JSON"),
    "config-not-utf8": (lambda c: (c.folder / "config.json").write_bytes(b"\xff\xfe"), "not readable JSON"),
    "config-a-list": (_in_folder("config.json", "[]"), "must hold a JSON object; got list"),
    "config-lacks-a-size": (lambda c: c.write_config(hidden_size=None), "hidden_size must be a whole number.*None"),
    "config-size-a-text": (lambda c: c.write_config(num_attention_heads="4"), "num_attention_heads .* got '4'"),
    "config-head-dim": (lambda c: c.write_config(head_dim=5), "4 heads of 5 are not hidden_size 16"),
    "settings-not-json": (_in_folder("kb_config_explicit.json", "x"), "kb_config_explicit.json is not readable JSON"),
    "settings-frequency": (lambda c: c.write_settings(kb_layer_frequency=0), "kb_layer_frequency must be .* got 0"),
    "settings-scale": (lambda c: c.write_settings(kb_scale_factor="C"), "kb_scale_factor must be .* got 'C'"),
    "settings-switch": (lambda c: c.write_settings(sep_query_head="yes"), "sep_query_head must be .* got 'yes'"),
    "settings-top-k": (lambda c: c.write_settings(top_k_kb=-1), "top_k_kb must be .* got -1"),
    "settings-other-frequency": (
        lambda c: c.write_settings(kb_layer_frequency=2),
        "kb_layer_frequency=2 does not fit .* out_dim is 48, not .1 . 6 // 2. . 16; those that fit: 3",
    ),
    "no-encoder": (lambda c: (c.encoder_folder / "encoder.pt").unlink(), "looked for .*encoder.pt.*; pass the path"),
    "encoder-runs-code": (_raw_encoder(pickle.dumps(_Code(), protocol=2)), "never run here"),
    "encoder-holds-objects": (
        lambda c: torch.save({"projector_k.weight": Path("x")}, c.encoder_folder / "encoder.pt"),
        "never run here",
    ),
    "encoder-garbage": (_raw_encoder(b"not a checkpoint at all"), "damaged or holds Python objects"),
    "encoder-empty": (_raw_encoder(b""), "not a readable torch file"),
    "encoder-a-tensor": (lambda c: torch.save(torch.ones(2), c.encoder_folder / "encoder.pt"), "state dict.* Tensor"),
    "encoder-of-something-else": (lambda c: c.write_encoder({"w": torch.ones(1)}), "not an upstream encoder.* w;"),
    "encoder-lacks-bias": (_without("projector_v.bias"), "missing or unexpected: projector_v.bias"),
    "encoder-two-kinds": (
        lambda c: c.write_encoder(encoder_state() | encoder_state(hidden=7)),
        "neither upstream's linear nor its mlp",
    ),
    "encoder-vector": (_break_shape("projector_k.weight", (OUT_DIM,)), "must be matrices"),
    "encoder-value-width": (_break_shape("projector_v.weight", (OUT_DIM, 9)), r"projector_v.weight .* got \(48, 9\)"),
    "encoder-bias-width": (_break_shape("projector_k.bias", (3,)), r"projector_k.bias must have shape \(48,\)"),
    "encoder-nan": (
        lambda c: c.write_encoder(c.encoder | {"projector_k.bias": torch.full((OUT_DIM,), float("nan"))}),
        "projector_k.bias holds NaN",
    ),
    "encoder-integers": (
        lambda c: c.write_encoder(c.encoder | {"projector_k.bias": torch.ones(OUT_DIM, dtype=torch.int32)}),
        "floating-point numbers; got torch.int32",
    ),
    "encoder-of-another-model": (
        lambda c: (c.drop_settings(), c.write_encoder(encoder_state(out_dim=50))),
        "out_dim 50, which is .* for no frequency",
    ),
    "identity-table": (
        lambda c: c.write_encoder({"embedding.weight": torch.ones(OUT_DIM)}),
        "embedding.weight must be a matrix",
    ),
    "no-heads": (
        lambda c: (c.folder / "model.safetensors").unlink(),
        r"no .*self_attn.q_proj_new.weight or .*q_proj_kg.weight for knowledge layers i in \[0, 3\]",
    ),
    "heads-lack-a-layer": (lambda c: c.write_heads(head_state(range(3))), r"knowledge layers i in \[3\]"),
    "heads-shape": (
        lambda c: c.write_heads(c.heads | {HEAD.format(3): torch.randn(4, HIDDEN)}),
        r"layers.3.self_attn.q_proj_new must have shape \(16, 16\); got \(4, 16\)",
    ),
    "heads-with-bias": (
        lambda c: c.write_heads(c.heads | {HEAD.format(0).replace("weight", "bias"): torch.ones(HIDDEN)}),
        "q_proj_new.bias exists",
    ),
    "heads-truncated": (_truncated_heads, "not a readable safetensors file"),
    "lost-shard": (_lost_shard, "lacks model-00002-of-00002.safetensors"),
    "index-malformed": (_in_folder("model.safetensors.index.json", '{"weight_map": [1]}'), "weight_map must map"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_malformed_checkpoint_is_refused_by_name(
    checkpoint: Checkpoint, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    damage, message = BROKEN[case]
    damage(checkpoint)
    with pytest.raises(AdapterFormatError, match=message):
        load_upstream(checkpoint.folder)
    assert not (tmp_path / "pwned").exists()


def test_paths_that_are_not_there(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(AdapterFormatError, match="nowhere is not a folder"):
        load_upstream(tmp_path / "nowhere")
    with pytest.raises(AdapterFormatError, match=r"other\.pt is missing"):
        load_upstream(checkpoint.folder, tmp_path / "other.pt")
    with pytest.raises(AdapterFormatError, match=r"heads\.pth is missing"):
        load_upstream(checkpoint.folder, query_head_path=tmp_path / "heads.pth")
    with pytest.raises(AdapterFormatError, match=r"no model\*\.safetensors"):
        list(base_weights(checkpoint.encoder_folder))


@pytest.mark.parametrize("frequency", [0, -3, 2])
def test_a_frequency_given_that_does_not_fit(checkpoint: Checkpoint, frequency: int) -> None:
    with pytest.raises(AdapterFormatError, match=f"layer_frequency={frequency} does not fit .* those that fit: 3"):
        load_upstream(checkpoint.folder, layer_frequency=frequency)


def test_arguments_that_contradict_each_other(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(AdapterConfigError, match="contradicts query_head_path"):
        load_upstream(checkpoint.folder, query_head_path=tmp_path / "heads.pth", separate_query_head=False)
