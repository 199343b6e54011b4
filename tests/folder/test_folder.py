"""Model folders: written whole or not at all, read back without a network, refused with the file's name."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
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
    StoreWriteError,
    UnsupportedModelError,
)
from kblam.folder import integrate, is_model_folder, load_folder, load_model, new, read_manifest
from kblam.models.loading import load_base
from tests.fakes import HashingEncoder
from tests.generation.tiny import EMBEDDING_DIM, FACTS, save_base, tiny_adapter, tiny_model, tiny_tokenizer

ENCODER = HashingEncoder(EMBEDDING_DIM)
QUESTION = "what is the capital of amber falcon ?"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter() -> KnowledgeAdapter:
    return tiny_adapter(tiny_model(tiny_tokenizer()), ENCODER)


@pytest.fixture
def kb(tmp_path: Path) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.create(tmp_path / "facts.kb", ENCODER) as made:
        made.add(FACTS)
        yield made


@pytest.fixture
def written(base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path) -> Path:
    return integrate(base, adapter, kb, tmp_path / "folder")


def answer_of(folder: Path) -> Any:
    loaded = load_folder(folder, device="cpu")
    with loaded.knowledge_base as kb:
        return ask(loaded.model, kb, QUESTION, tokenizer=loaded.tokenizer, max_new_tokens=4)


def left_behind(parent: Path) -> list[str]:
    return [path.name for path in parent.iterdir() if path.name.startswith(".")]


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


def test_what_exists_is_not_replaced_unless_asked(
    written: Path, base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path
) -> None:
    with pytest.raises(ModelFolderError, match=r"folder exists; choose another folder, or replace it"):
        integrate(base, adapter, kb, written)
    kb.remove("Quiet Harbor")
    integrate(base, adapter, kb, written, overwrite=True)
    with KnowledgeBase.open(written / "knowledge.kb", ENCODER) as copy:
        assert len(copy) == 2
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ModelFolderError, match="is not a model folder"):
            integrate(base, adapter, kb, mine, overwrite=overwrite)
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert left_behind(tmp_path) == []


def test_a_base_that_would_go_with_the_old_folder_is_not_referred_to(
    base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path
) -> None:
    whole = integrate(base, adapter, kb, tmp_path / "whole", include_base=True)
    expected = answer_of(whole).text
    (tmp_path / "link").symlink_to(whole)
    for target in (whole, tmp_path / "link"):
        for model in (whole / "base", load_base(str(whole / "base"), device="cpu")):
            with pytest.raises(ModelFolderError, match=r"base lies in .*, which is replaced.*; pass include_base"):
                integrate(model, adapter, kb, target, tokenizer=tiny_tokenizer(), overwrite=True)
    integrate(whole / "base", adapter, kb, whole, tokenizer=tiny_tokenizer(), include_base=True, overwrite=True)
    assert answer_of(whole).text == expected


def test_an_empty_folder_is_taken(base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert is_model_folder(integrate(base, adapter, kb, tmp_path / "folder"))


def test_an_open_knowledge_base_is_copied_and_not_what_lies_at_its_path_now(
    base: Path, adapter: KnowledgeAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = HashingEncoder(EMBEDDING_DIM)
    monkeypatch.chdir(tmp_path)
    with KnowledgeBase.create("facts.kb", encoder) as kb:
        kb.add(FACTS)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        integrate(base, adapter, kb, tmp_path / "folder")
        with KnowledgeBase.create(tmp_path / "new.kb", HashingEncoder(8)):
            pass
        (tmp_path / "new.kb").rename(tmp_path / "facts.kb")
        with pytest.raises(StoreError, match="was removed, or replaced by another file"):
            integrate(base, adapter, kb, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with KnowledgeBase.open(tmp_path / "folder" / "knowledge.kb") as copy:
        assert len(copy) == len(FACTS)


def test_two_calls_at_once_do_not_touch_each_others_unfinished_folder(tmp_path: Path) -> None:
    with new.new_folder(tmp_path / "a") as first:
        (first / "what").write_text("first")
        with new.new_folder(tmp_path / "a") as second:
            (second / "what").write_text("second")
        assert (tmp_path / "a" / "what").read_text() == "second"
        assert (first / "what").read_text() == "first"
    assert (tmp_path / "a" / "what").read_text() == "first"
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "stopped"]
)
def test_a_failed_write_leaves_the_old_folder_and_nothing_else(
    written: Path,
    base: Path,
    adapter: KnowledgeAdapter,
    kb: KnowledgeBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    def fail(*_: object) -> None:
        raise error

    before = (written / "kblam.json").read_bytes()
    monkeypatch.setattr(KnowledgeBase, "copy_to", fail)
    with pytest.raises((StoreWriteError, KeyboardInterrupt)) as raised:
        integrate(base, adapter, kb, written, overwrite=True)
    if isinstance(error, OSError):
        assert "No space left on device" in str(raised.value)
    with pytest.raises((StoreWriteError, KeyboardInterrupt)):
        integrate(base, adapter, kb, tmp_path / "new")
    assert (written / "kblam.json").read_bytes() == before
    assert not (tmp_path / "new").exists()
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["disk", "^C"])
def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    written: Path,
    base: Path,
    adapter: KnowledgeAdapter,
    kb: KnowledgeBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    rename = Path.rename

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise error
        return rename(self, target)

    monkeypatch.setattr(new, "_exchange", lambda *_: False)  # as on a system without it
    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises((StoreWriteError, KeyboardInterrupt)):
        integrate(base, adapter, kb, written, overwrite=True)
    assert answer_of(written).text
    assert left_behind(tmp_path) == []


KILLED = """
import importlib.util, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("new", sys.argv[3])  # not its package, which brings torch
new = importlib.util.module_from_spec(spec)
spec.loader.exec_module(new)
real, can, calls = Path.rename, sys.argv[2] == "exchange", []
if not can:
    new._exchange = lambda *_: False
def rename(self, target):
    moved = real(self, target)
    calls.append(self)
    os.kill(os.getpid(), signal.SIGKILL)
    return moved
Path.rename = rename
with new.new_folder(Path(sys.argv[1])) as fresh:
    (fresh / "what").write_text("new")
"""


@pytest.mark.parametrize("how", ["exchange", "two renames"])
def test_a_killed_replacement_leaves_a_folder(tmp_path: Path, how: str) -> None:
    target = tmp_path / "a [b]"
    target.mkdir()
    (target / "what").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(target), how, new.__file__], timeout=200, check=False)
    # An exchange is one step, after which nothing is renamed.
    assert killed.returncode == (0 if how == "exchange" else -signal.SIGKILL), killed
    if how == "exchange":
        assert (target / "what").read_text() == "new"
    else:
        assert not target.exists()
        new.restore(target)
        assert (target / "what").read_text() == "old"
    with new.new_folder(target) as fresh:
        (fresh / "what").write_text("newer")
    assert (target / "what").read_text() == "newer"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a [b]"]


def test_what_was_left_of_another_folder_is_not_taken(tmp_path: Path) -> None:
    others = [tmp_path / f".model{rest}" for rest in (".v2.7-0123abcd.old", ".v2.7-0123abcd.part", ".mine.old")]
    for other in others:
        other.mkdir()
        (other / "what").write_text("of another")
    new.restore(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with new.new_folder(tmp_path / "model") as fresh:
        (fresh / "what").write_text("new")
    assert all((other / "what").read_text() == "of another" for other in others)


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with new.new_folder(tmp_path / "link") as fresh:
        (fresh / "what").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "what").read_text() == "new"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link", "real"]


def test_a_place_that_cannot_be_written(
    base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreWriteError, match=r"cannot write the folder .*file/folder: Not a directory"):
        integrate(base, adapter, kb, tmp_path / "file" / "folder")


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
