"""Multiple choice beside an irrelevant base: the file of figures says of what they are."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kblam.evaluation.machine import commit, device_name


def test_the_figures_name_commit_machine_and_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = SimpleNamespace(simple_evaluate=lambda **_: {"results": {"kinds": {"acc,none": 0.5}}})
    monkeypatch.setitem(sys.modules, "lm_eval", asked)
    monkeypatch.setitem(sys.modules, "kblam.evaluation.harness", SimpleNamespace(KnowledgeLM=lambda *_, **__: None))
    monkeypatch.delitem(sys.modules, "experiments.choices", raising=False)
    choices: Any = importlib.import_module("experiments.choices")
    monkeypatch.delitem(sys.modules, "experiments.choices")
    config = SimpleNamespace(base_model="tiny", answer="{value}", encoder="hashing")
    adapter = SimpleNamespace(from_pretrained=lambda _: SimpleNamespace(config=config))
    row = SimpleNamespace(quizzes=lambda: [SimpleNamespace(facts=[("A", "b", "c")])])
    model = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32)
    made = {
        "KnowledgeAdapter": adapter,
        "KnowledgeBase": SimpleNamespace(from_triples=lambda *_: contextlib.nullcontext()),
        "load_encoder": lambda _: None,
        "load_base": lambda _: model,
        "load_tokenizer": lambda _: None,
        "attach": lambda *_: None,
        "rows_of": lambda *_: [row],
        "questions": lambda *_: {},
        "tasks": lambda *_: [],
        "quiet_libraries": lambda: None,
    }
    for name, value in made.items():
        monkeypatch.setattr(choices, name, value)
    file = tmp_path / "choices.json"
    words = [
        "choices",
        "--wordnet",
        "dict",
        "--adapter",
        "mine",
        "--seed",
        "4",
        "--questions",
        "8",
        "--json",
        str(file),
    ]
    monkeypatch.setattr(sys, "argv", [*words[:-1], str(tmp_path)])
    with monkeypatch.context() as patched:
        patched.setattr(choices, "load_base", lambda _: pytest.fail("before a place that cannot be written is told"))
        with pytest.raises(SystemExit):
            choices.main()
    assert "is a folder; name a file in it" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", words)
    choices.main()
    stored = json.loads(file.read_text())
    assert stored["base model alone"] == {"kinds": 0.5}
    about = {name: stored[name] for name in ("model", "adapter", "encoder", "dtype", "seed", "questions")}
    assert about == {
        "model": "tiny", "adapter": "mine", "encoder": "hashing", "dtype": "float32", "seed": 4, "questions": 8,
    }  # fmt: skip
    assert (stored["commit"], stored["device"]) == (commit(), device_name(model.device))
    assert stored["versions"]["torch"] == importlib.metadata.version("torch")
