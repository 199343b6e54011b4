"""`kblam integrate`: what it says, and what it refuses."""

from __future__ import annotations

from pathlib import Path

from kblam import shipped
from kblam.cli.integrate import _parts
from tests.cli.conftest import kblam


def test_it_says_what_it_wrote(base: Path, adapter: Path, kb: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shown = kblam("integrate", base, adapter, kb, "-o", folder).ok().stdout
    assert str(folder) in shown
    assert "referred to, not copied" in shown
    assert f"--model {folder}" in shown
    facts = kblam("integrate", base, adapter, kb, "-o", folder, "--include-base", "--overwrite", "--json").ok().json
    assert (facts["folder"], facts["base_included"], facts["dtype"]) == (str(folder), True, "float32")
    assert facts["bytes"] == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_the_storage_of_a_folder_is_that_of_who_asks_for_none(
    base: Path, adapter: Path, kb: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    kblam("integrate", base, adapter, kb, "-o", folder, "--storage", "int9").failed(2, "storage must be one of")
    written = kblam("integrate", base, adapter, kb, "-o", folder, "--storage", "int8", "--json").ok().json
    assert written["storage"] == "int8"
    ask = ("ask", "motto ?", "--model", folder, "--max-new-tokens", 2, "--verbose")
    assert "x 1 bytes" in kblam(*ask).ok().stderr
    assert "x 2 bytes" in kblam(*ask, "--storage", "float16").ok().stderr
    assert "x 1 bytes" in kblam("kb", "info", folder, "--model", folder).ok().stdout
    manifest = folder / "kblam.json"
    manifest.write_text(manifest.read_text().replace('"storage": "int8"', '"older": 1'))  # before it was recorded
    assert "x 2 bytes" in kblam(*ask).ok().stderr


def test_a_model_folder_stands_for_its_knowledge_base(
    base: Path, adapter: Path, model_folder: Path, tmp_path: Path
) -> None:
    kblam("integrate", base, adapter, model_folder, "-o", tmp_path / "copy").ok()
    assert kblam("kb", "info", tmp_path / "copy", "--json").ok().json["triples"] == 3
    parts = ["--model", base, "--adapter", adapter, "--kb", tmp_path / "copy"]
    asked = kblam("ask", "motto ?", *parts, "--max-new-tokens", 2, "--json").ok().json
    assert asked["evidence"][0]["name"] == "Amber Falcon"


def test_what_it_refuses(base: Path, adapter: Path, kb: Path, model_folder: Path, tmp_path: Path) -> None:
    kblam("integrate", base, adapter, kb, "-o", model_folder).failed(2, "exists", "--overwrite")
    kblam("integrate", base, adapter, kb, "-o", tmp_path).failed(2, "is not a model folder")
    new = tmp_path / "new"
    kblam("integrate", base, base, kb, "-o", new).failed(2, "is not the config of a kblam adapter")
    kblam("integrate", adapter, adapter, kb, "-o", new).failed(2, "cannot load the model")
    kblam("integrate", model_folder, adapter, kb, "-o", new).failed(2, f"name its base model: {base.resolve()}")
    kblam("integrate", base, adapter, kb, "-o", new, "--revision", "v1").failed(
        2, f"'{base}' is a folder, which has no revision 'v1': leave --revision out"
    )
    kblam("integrate", "--model", "tiny", "--kb", kb, "-o", new, "--revision", "v1").failed(2, "is a folder")
    kblam("integrate", base, adapter, tmp_path / "none.kb", "-o", new).failed(2, "there is no knowledge base")
    kblam("integrate", "none at all", adapter, kb, "-o", kb / "folder").failed(1, f"{kb} is no folder that may be")
    assert not new.exists()


def test_a_newer_model_folder_is_refused(model_folder: Path) -> None:
    manifest = model_folder / "kblam.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 99'))
    kblam("ask", "motto ?", "--model", model_folder).failed(2, "format version 99, newer than 1", "pip install")


def test_the_tiny_model_has_its_own_adapter(tmp_path: Path) -> None:
    kb = tmp_path / "facts.kb"
    expected = ("tiny", str(shipped.DEMO / "adapter"), kb)
    assert _parts([], "tiny", None, kb, tmp_path / "folder") == expected
    assert _parts(["tiny", str(kb)], None, None, None, tmp_path / "folder") == expected
