"""Import of checkpoints in every layout that upstream's scripts write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.adapter.upstream import base_weights, load_upstream
from kblam.errors import AdapterFormatError
from tests.adapter.upstream_checkpoint import (
    FREQUENCY,
    HEAD,
    HEADS,
    HIDDEN,
    LAYERS,
    OUT_DIM,
    Checkpoint,
    P,
    assert_holds,
    encoder_state,
    head_state,
    write_shards,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path)


def test_a_train_py_checkpoint_loads_from_its_folder_alone(checkpoint: Checkpoint) -> None:
    adapter = load_upstream(checkpoint.folder)
    assert_holds(adapter, checkpoint)
    assert adapter.config == AdapterConfig(
        embedding_dim=P,
        hidden_size=HIDDEN,
        num_layers=LAYERS,
        num_heads=HEADS,
        head_dim=HIDDEN // HEADS,
        layer_frequency=FREQUENCY,
        base_model="meta-llama/tiny",
    )
    assert not adapter.training
    assert all(parameter.requires_grad for parameter in adapter.parameters())


def test_a_converted_checkpoint_loads_as_an_adapter(checkpoint: Checkpoint, tmp_path: Path) -> None:
    load_upstream(checkpoint.folder, knowledge_scale=100.0, encoder="minilm").save_pretrained(tmp_path / "adapter")
    again = KnowledgeAdapter.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(again.key_projector.weight, checkpoint.encoder["projector_k.weight"], rtol=0, atol=0)
    assert again.config.knowledge_scale == 100.0
    assert again.config.encoder == "minilm"
    for layer, head in again.query_heads.items():
        assert torch.equal(head.weight, checkpoint.heads[HEAD.format(layer)].float())


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("encoder.pt", id="file"),
        pytest.param("", id="folder"),
        pytest.param("encoder.safetensors", id="safetensors"),
    ],
)
def test_the_encoder_can_be_named(checkpoint: Checkpoint, tmp_path: Path, place: str) -> None:
    elsewhere = checkpoint.encoder_folder.rename(tmp_path / "elsewhere")
    if place.endswith(".safetensors"):
        save_file(checkpoint.encoder, elsewhere / place)
    assert_holds(load_upstream(checkpoint.folder, elsewhere / place), checkpoint)


def test_the_layout_that_train_py_resumes_from(checkpoint: Checkpoint) -> None:
    (checkpoint.encoder_folder / "encoder.pt").rename(checkpoint.folder / "encoder.pt")
    checkpoint.drop_settings()
    checkpoint.write_settings("kb_config.json", kb_scale_factor=7)
    adapter = load_upstream(checkpoint.folder)
    assert_holds(adapter, checkpoint)
    assert adapter.config.knowledge_scale == 7


def test_what_an_encoder_file_holds_beside_the_projectors_is_ignored(checkpoint: Checkpoint) -> None:
    """With MiniLM the state dict holds the whole sentence encoder, and accelerate may prefix every name."""
    state = dict(checkpoint.encoder)
    noise = {"base_model.0.auto_model.embeddings.word_embeddings.weight": torch.full((3, 3), float("nan"))}
    torch.save({f"module.{k}": v for k, v in (state | noise).items()}, checkpoint.encoder_folder / "encoder.pt")
    assert_holds(load_upstream(checkpoint.folder), checkpoint)


def test_sharded_safetensors(checkpoint: Checkpoint) -> None:
    write_shards(checkpoint, "model.safetensors", save_file)
    assert_holds(load_upstream(checkpoint.folder), checkpoint)


def test_sharded_pytorch_weights(checkpoint: Checkpoint) -> None:
    write_shards(checkpoint, "pytorch_model.bin", torch.save)
    assert_holds(load_upstream(checkpoint.folder), checkpoint)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_one_pytorch_file(checkpoint: Checkpoint, zipped: bool) -> None:
    (checkpoint.folder / "model.safetensors").unlink()
    path = checkpoint.folder / "pytorch_model.bin"
    torch.save(checkpoint.heads, path, _use_new_zipfile_serialization=zipped)
    assert_holds(load_upstream(checkpoint.folder), checkpoint)


def test_a_query_head_file_beside_a_plain_base_model(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Upstream's `--query_head_path`: the folder is the base model's and has no query heads, nor settings."""
    (checkpoint.folder / "model.safetensors").unlink()
    checkpoint.drop_settings()
    path = tmp_path / "learned_query_head.pth"
    torch.save({f"layer_{layer}": {"weight": checkpoint.heads[HEAD.format(layer)]} for layer in range(LAYERS)}, path)
    adapter = load_upstream(checkpoint.folder, query_head_path=path)
    assert_holds(adapter, checkpoint)
    assert adapter.config.separate_query_head


def test_a_query_head_file_wins_over_the_recorded_switch(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.write_settings(sep_query_head=False)
    path = tmp_path / "heads.pth"
    torch.save({f"layer_{layer}": {"weight": checkpoint.heads[HEAD.format(layer)]} for layer in range(LAYERS)}, path)
    assert_holds(load_upstream(checkpoint.folder, query_head_path=path), checkpoint)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_mlp_is_recognised_with_its_depth(checkpoint: Checkpoint, depth: int) -> None:
    state = encoder_state(hidden=7, depth=depth)
    checkpoint.write_encoder(state)
    adapter = load_upstream(checkpoint.folder)
    assert (adapter.config.projector, adapter.config.mlp_depth, adapter.config.mlp_hidden_dim) == ("mlp", depth, 7)
    assert adapter.config.embedding_dim == P
    values, x = adapter.value_projector, torch.randn(2, P)
    for i, place in enumerate([0, *(1 + 2 * i for i in range(depth + 1))]):
        assert torch.equal(values[place].weight, state[f"projector_v.{place}.weight"]), i
    assert values(x).shape == (2, OUT_DIM)


def test_the_identity_is_recognised(checkpoint: Checkpoint) -> None:
    checkpoint.write_encoder({"embedding.weight": torch.randn(6, OUT_DIM)})
    config = load_upstream(checkpoint.folder).config
    assert (config.projector, config.embedding_dim) == ("identity", OUT_DIM)


@pytest.mark.parametrize(
    ("layers", "frequency"),
    [(6, 1), (6, 3), (6, 2), (5, 2), (32, 3), (7, 7), (4, 5)],
)
def test_an_unrecorded_frequency_follows_from_the_width(checkpoint: Checkpoint, layers: int, frequency: int) -> None:
    checkpoint.drop_settings()
    checkpoint.write_config(num_hidden_layers=layers)
    checkpoint.write_heads(head_state(range(layers)))
    checkpoint.write_encoder(encoder_state(out_dim=(1 + layers // frequency) * HIDDEN))
    if layers == 7:  # 4, 5, 6 and 7 all give two slots
        with pytest.raises(AdapterFormatError, match="pass layer_frequency, those that fit: 4, 5, 6, 7"):
            load_upstream(checkpoint.folder)
        assert load_upstream(checkpoint.folder, layer_frequency=7).config.knowledge_layers == [0]
    else:
        assert load_upstream(checkpoint.folder).config.layer_frequency == frequency


@pytest.mark.parametrize(
    ("settings", "arguments", "expected"),
    [
        pytest.param({}, {}, (True, None, None), id="as-train-py-records"),
        pytest.param({"kb_scale_factor": 100}, {}, (True, 100, None), id="recorded-scale"),
        pytest.param({"kb_scale_factor": 100}, {"knowledge_scale": 5.0}, (True, 5.0, None), id="scale-given"),
        pytest.param({"sep_query_head": False}, {}, (False, None, None), id="no-separate-head-recorded"),
        pytest.param({}, {"separate_query_head": False}, (False, None, None), id="no-separate-head-given"),
        pytest.param({"sep_query_head": False}, {"separate_query_head": True}, (True, None, None), id="head-given"),
        pytest.param({"dynamic_sparsify": True, "top_k_kb": 9}, {}, (True, None, 9), id="recorded-top-k"),
        pytest.param({"top_k_kb": 9}, {}, (True, None, None), id="top-k-switched-off"),
        pytest.param({}, {"top_k": 4}, (True, None, 4), id="top-k-given"),
    ],
)
def test_settings_come_from_the_argument_else_the_record(
    checkpoint: Checkpoint, settings: dict[str, Any], arguments: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    checkpoint.write_settings(**settings)
    config = load_upstream(checkpoint.folder, **arguments).config
    assert (config.separate_query_head, config.knowledge_scale, config.top_k) == expected


def test_phi3_never_pruned_whatever_is_recorded(checkpoint: Checkpoint) -> None:
    checkpoint.write_config(model_type="phi3")
    checkpoint.write_settings(dynamic_sparsify=True, top_k_kb=9)
    assert load_upstream(checkpoint.folder).config.top_k is None
    assert load_upstream(checkpoint.folder, top_k=4).config.top_k == 4


def test_a_folder_without_record_and_heads_has_no_separate_head(checkpoint: Checkpoint) -> None:
    checkpoint.drop_settings()
    (checkpoint.folder / "model.safetensors").unlink()
    assert load_upstream(checkpoint.folder).config.separate_query_head is False


def test_base_weights_load_into_the_plain_model(checkpoint: Checkpoint) -> None:
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=HIDDEN,
        intermediate_size=8,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
    )
    trained = LlamaForCausalLM(config)
    checkpoint.write_heads(trained.state_dict() | checkpoint.heads)
    weights = dict(base_weights(checkpoint.folder))
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(weights)  # strict: nothing missing, nothing of upstream's left
    named = LlamaForCausalLM.from_pretrained(None, config=config, state_dict=weights)
    ids = torch.tensor([[1, 2, 3]])
    for model in (plain, named):
        assert torch.equal(model(ids).logits, trained(ids).logits)


def test_an_adapter_does_not_depend_on_the_files_it_came_from(checkpoint: Checkpoint) -> None:
    adapter = load_upstream(checkpoint.folder)
    for path in (checkpoint.folder / "model.safetensors", checkpoint.encoder_folder / "encoder.pt"):
        path.write_bytes(bytes(path.stat().st_size))
    assert_holds(adapter, checkpoint)
