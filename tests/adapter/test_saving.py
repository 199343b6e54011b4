"""Saving and loading an adapter: what is written, and what is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from kblam.adapter import AdapterConfig, KnowledgeAdapter, files
from kblam.adapter.config import FORMAT_VERSION
from kblam.errors import AdapterConfigError, AdapterError, AdapterFormatError


def make(**changes: Any) -> KnowledgeAdapter:
    torch.manual_seed(0)
    shapes = {"embedding_dim": 10, "hidden_size": 12, "num_layers": 4, "num_heads": 3, "head_dim": 4}
    return KnowledgeAdapter(AdapterConfig(**{**shapes, "layer_frequency": 2, "encoder": "hashing:0", **changes}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make().save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"reached for the network: {args}")

    monkeypatch.setattr(files, "snapshot_download", download)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"separate_query_head": False, "knowledge_scale": 100.0},
        {"projector": "mlp", "mlp_depth": 1, "mlp_hidden_dim": 5},
        {"projector": "identity", "embedding_dim": 36},
    ],
    ids=str,
)
def test_an_adapter_comes_back_as_it_was(changes: dict[str, Any], tmp_path: Path, no_network: None) -> None:
    adapter = make(**changes)
    adapter.save_pretrained(tmp_path)
    again = KnowledgeAdapter.from_pretrained(tmp_path)
    assert again.config == adapter.config
    assert not again.training
    saved, loaded = adapter.state_dict(), again.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_defaults_of_torch_do_not_matter(dtype: torch.dtype, tmp_path: Path) -> None:
    """Engines set them to the model's."""
    adapter = make(question_head="mlp", question_hidden_dim=5, property_width=6)
    adapter.save_pretrained(tmp_path)
    try:
        torch.set_default_dtype(dtype)
        torch.set_default_device("meta")
        loaded = KnowledgeAdapter.from_pretrained(tmp_path).state_dict()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    for name, weight in adapter.state_dict().items():
        assert (loaded[name].dtype, loaded[name].device.type) == (torch.float32, "cpu"), name
        assert torch.equal(loaded[name], weight), name


def test_the_folder_holds_the_adapter_and_nothing_else(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config == make().config.to_dict()
    assert load_file(folder / "model.safetensors").keys() == make().state_dict().keys()
    assert "kblam" in (folder / "README.md").read_text()


def test_loading_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    KnowledgeAdapter.from_pretrained(str(folder))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["/no/such/folder", "./here", "~/adapters/none", "a/b/c", Path("adapter")], ids=str)
def test_a_path_that_is_not_there_is_not_looked_up_on_the_hub(name: str | Path, no_network: None) -> None:
    with pytest.raises(AdapterFormatError, match=f"no adapter folder {name}"):
        KnowledgeAdapter.from_pretrained(name)


def test_a_hub_name_brings_the_two_files_and_no_pickle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr(files, "snapshot_download", download)
    adapter = KnowledgeAdapter.from_pretrained("someone/adapter", revision="v1", local_files_only=True)
    assert adapter.config == make().config
    assert asked["name"] == "someone/adapter"
    assert asked["allow_patterns"] == ["config.json", "model.safetensors"]
    assert (asked["revision"], asked["local_files_only"]) == ("v1", True)


@pytest.mark.parametrize("name", ["nobody/nothing-at-all", "not a repository name!"])
def test_a_hub_name_that_gives_nothing_is_a_typed_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterFormatError, match=f"'{name}' is neither a folder nor an adapter that the hub gives: ."):
        KnowledgeAdapter.from_pretrained(name, local_files_only=True, cache_dir=tmp_path)


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def edit_weights(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        edit(weights)
        save_file(weights, folder / "model.safetensors")

    return write


def truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


DAMAGE: list[Any] = [
    pytest.param(lambda f: (f / "config.json").unlink(), "it has no config.json", id="no-config"),
    pytest.param(lambda f: (f / "config.json").write_text("{"), "config.json is not readable JSON", id="broken-json"),
    pytest.param(lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "not readable JSON", id="binary-json"),
    pytest.param(lambda f: (f / "config.json").write_text("[1]"), "not the config of a kblam adapter", id="json-list"),
    pytest.param(
        lambda f: (f / "config.json").write_text('{"model_type": "llama", "hidden_size": 64}'),
        "not the config of a kblam adapter",
        id="a-models-config",
    ),
    pytest.param(lambda f: (f / "model.safetensors").unlink(), "it has no model.safetensors", id="no-weights"),
    pytest.param(truncate, "model.safetensors is damaged", id="truncated"),
    pytest.param(lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors is damaged", id="empty"),
    pytest.param(lambda f: (f / "model.safetensors").write_text("weights"), "is damaged", id="text"),
    pytest.param(
        edit_weights(lambda w: w.pop("key_projector.bias")), "key_projector.bias is missing", id="tensor-missing"
    ),
    pytest.param(
        edit_weights(lambda w: w.update({"lm_head.weight": torch.zeros(2)})),
        "lm_head.weight is not an adapter's",
        id="tensor-of-something-else",
    ),
    pytest.param(
        edit_config(hidden_size=13), r"query_heads.0.weight is 12x12, not 12x13", id="config-of-another-model"
    ),
    pytest.param(edit_config(num_layers=8), r"key_projector.bias is 36, not 60; .* and \d more", id="other-layers"),
    pytest.param(
        lambda f: (shutil.rmtree(f), f.mkdir()), "is not an adapter: it has no config.json", id="empty-folder"
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_damaged_folder_is_refused(
    damage: Callable[[Path], object], message: str, folder: Path, no_network: None
) -> None:
    KnowledgeAdapter.from_pretrained(folder)
    damage(folder)
    with pytest.raises(AdapterFormatError, match=message):
        KnowledgeAdapter.from_pretrained(folder)


def test_a_config_that_contradicts_itself_is_a_config_error(folder: Path) -> None:
    edit_config(format_version=FORMAT_VERSION + 1)(folder)
    with pytest.raises(AdapterConfigError, match=f"format version {FORMAT_VERSION + 1}"):
        KnowledgeAdapter.from_pretrained(folder)


def test_unknown_keys_of_a_file_warn(folder: Path) -> None:
    edit_config(added_later=1)(folder)
    with pytest.warns(UserWarning, match="added_later"):
        assert KnowledgeAdapter.from_pretrained(folder).config == make().config


def test_without_strict_missing_weights_stay_as_initialised(folder: Path) -> None:
    edit_weights(lambda weights: weights.pop("key_projector.bias"))(folder)
    torch.manual_seed(7)
    adapter = KnowledgeAdapter.from_pretrained(folder, strict=False)
    torch.manual_seed(7)
    fresh, saved = KnowledgeAdapter(adapter.config).state_dict(), make().state_dict()
    assert not torch.equal(fresh["key_projector.bias"], saved["key_projector.bias"])
    expected = saved | {"key_projector.bias": fresh["key_projector.bias"]}
    for name, tensor in adapter.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_errors_share_a_base() -> None:
    assert issubclass(AdapterFormatError, AdapterError)
    assert issubclass(AdapterConfigError, AdapterError)


@pytest.mark.parametrize("how", ["cannot be loaded again", "stopped"])
def test_an_adapter_that_is_there_stays_until_the_new_one_is_whole(
    how: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "README.md").write_text("mine")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    adapter = make(knowledge_scale=3.0)
    if how == "stopped":
        monkeypatch.setattr("kblam.adapter.adapter.write_config", mock.Mock(side_effect=KeyboardInterrupt))
    else:
        adapter.extra = torch.nn.Linear(2, 2)
    with pytest.raises((AdapterError, KeyboardInterrupt)):
        adapter.save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    monkeypatch.undo()
    make(knowledge_scale=3.0).save_pretrained(folder)
    assert KnowledgeAdapter.from_pretrained(folder).config.knowledge_scale == 3.0
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (folder / "README.md").read_text() == "mine"


def test_who_may_read_a_folder_may_read_its_weights(folder: Path) -> None:
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode
