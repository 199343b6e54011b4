"""`kblam convert`: a checkpoint of upstream or AtlasKV becomes an adapter folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kblam import KnowledgeAdapter
from tests.adapter.atlas_checkpoint import AtlasCheckpoint, assert_holds_atlas
from tests.adapter.upstream_checkpoint import HEAD, LAYERS, Checkpoint, assert_holds
from tests.cli.conftest import kblam
from tests.fakes import HashingEncoder


def test_a_checkpoint_becomes_an_adapter_folder(tmp_path: Path, hashing: HashingEncoder) -> None:
    checkpoint, output = Checkpoint(tmp_path), tmp_path / "adapter"
    shown = kblam("convert", checkpoint.folder, "-o", output).ok().stdout
    assert f"{output}: linear adapter, P = 5, layers [0, 3], separate query heads" in shown
    assert "its sentence encoder is not recorded" in shown
    assert_holds(KnowledgeAdapter.from_pretrained(output), checkpoint)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_atlaskv_checkpoint_becomes_an_adapter_folder(tmp_path: Path) -> None:
    checkpoint, output = AtlasCheckpoint(tmp_path), tmp_path / "adapter"
    kblam("convert", checkpoint.folder, "-o", output, "--knowledge-scale", 100).ok()
    adapter = KnowledgeAdapter.from_pretrained(output)
    checkpoint.heads = {name: tensor.float() for name, tensor in checkpoint.heads.items()}
    assert_holds_atlas(adapter, checkpoint)
    assert adapter.config.knowledge_scale == 100


def test_what_a_checkpoint_does_not_say_is_given(tmp_path: Path, hashing: HashingEncoder) -> None:
    checkpoint, output = Checkpoint(tmp_path), tmp_path / "adapter"
    encoder_file = checkpoint.encoder_folder / "encoder.pt"
    options = ["--encoder", "minilm", "--base-model", "someone/llama", "--knowledge-scale", 100]
    result = kblam("convert", checkpoint.folder, encoder_file, "-o", output, *options, "--json").ok().json
    config = KnowledgeAdapter.from_pretrained(output).config
    assert result == {"folder": str(output), "config": config.to_dict()}
    assert (config.encoder, config.base_model, config.knowledge_scale) == (hashing.fingerprint, "someone/llama", 100)


def test_a_base_model_in_a_folder_is_recorded_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, output = Checkpoint(tmp_path), tmp_path / "adapter"
    (tmp_path / "models" / "llama").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    kblam("convert", checkpoint.folder, "-o", output, "--base-model", "models/llama").ok()
    recorded = KnowledgeAdapter.from_pretrained(output).config.base_model
    assert recorded == str(tmp_path.resolve() / "models" / "llama")


def test_query_heads_come_from_a_file_of_their_own(tmp_path: Path) -> None:
    checkpoint, output, heads = Checkpoint(tmp_path), tmp_path / "adapter", tmp_path / "heads.pth"
    (checkpoint.folder / "model.safetensors").unlink()
    torch.save({f"layer_{layer}": {"weight": checkpoint.heads[HEAD.format(layer)]} for layer in range(LAYERS)}, heads)
    kblam("convert", checkpoint.folder, "-o", output, "--query-head", heads).ok()
    assert_holds(KnowledgeAdapter.from_pretrained(output), checkpoint)
    kblam("convert", checkpoint.folder, "-o", tmp_path / "b", "--query-head", tmp_path / "none").failed(2, "none")


def test_what_it_refuses(tmp_path: Path) -> None:
    checkpoint, output = Checkpoint(tmp_path), tmp_path / "adapter"
    kblam("convert", tmp_path / "none", "-o", output).failed(2, "is not a folder")
    kblam("convert", checkpoint.folder, tmp_path / "none.pt", "-o", output).failed(2, "none.pt is missing")
    kblam("convert", checkpoint.folder, "-o", output, "--layer-frequency", 2).failed(2, "layer_frequency=2")
    checkpoint.write_settings(use_hierarchial_kv=True)
    kblam("convert", checkpoint.folder, "-o", output).failed(2, "hierarchical pruning")
    assert not output.exists()
    (tmp_path / "file").touch()
    kblam("convert", tmp_path / "none", "-o", tmp_path / "file" / "new").failed(
        1, "file is no folder that may be written"
    )
    kblam("convert", checkpoint.folder, "-o", checkpoint.folder).failed(2, "exists; choose another folder")
