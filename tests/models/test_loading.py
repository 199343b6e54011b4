"""Names of models that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kblam.errors import ModelFolderError
from kblam.models.loading import lasting_name, load_base
from kblam.shipped import meant


@pytest.mark.parametrize("name", [None, 3, "x" * 5000], ids=["nothing", "number", "long"])
def test_what_no_model_can_be_called_is_an_error_of_ours(name: Any) -> None:
    with pytest.raises(ModelFolderError, match="cannot load the model") as told:
        load_base(name)
    assert len(str(told.value)) < 1000


def test_a_folder_is_recorded_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("models/qwen", "smollm2", "tiny"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert lasting_name("models/qwen") == str(tmp_path.resolve() / "models" / "qwen")
    assert [lasting_name(name) for name in ("smollm2", "tiny", "someone/llama")] == ["smollm2", "tiny", "someone/llama"]


@pytest.mark.parametrize(
    ("name", "near"), [("smolm2", "smollm2"), ("SmolLM2", "smollm2"), ("tinny", "tiny"), ("smollm2", ""), ("llama", "")]
)
def test_a_short_name_that_is_nearly_one_is_asked_about(name: str, near: str) -> None:
    assert meant(name) == (f"; did you mean {near}?" if near else "")
    if near:
        with pytest.raises(ModelFolderError, match=rf"did you mean {near}\?"):
            load_base(name)
