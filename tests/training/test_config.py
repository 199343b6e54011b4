"""The training config: what it reads, what it refuses, and the command's flags over it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from kblam.cli.errors import CommandError
from kblam.cli.train import _flags
from kblam.errors import TrainingConfigError
from kblam.training import config
from kblam.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"train_entities": 0}, "train_entities must be a whole number of at least 1; got 0"),
        ({"max_steps": -1}, "max_steps must be a whole number of at least 0; got -1"),
        ({"max_steps": 1.5}, "max_steps must be a whole number of at least 0; got 1.5"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0; got 0"),
        ({"learning_rate": "fast"}, "learning_rate must be a number above 0; got 'fast'"),
        ({"layers": 3}, r"layers must be a list of ascending layers, such as \[14, 18\], or null; got 3"),
        ({"unanswerable": 1.0}, "unanswerable must be a share of 0 .. 1; got 1.0"),
        ({"lr_scheduler_type": "step"}, "lr_scheduler_type must be one of cosine, linear, constant; got 'step'"),
        ({"report_to": "mail"}, "report_to must be none or tensorboard; got 'mail'"),
        ({"calibration_entities": 9000}, "calibration_entities .9000. must be fewer than train_entities"),
        ({"bf16": "maybe"}, "bf16 must be true or false or null; got 'maybe'"),
        ({"pointer": None}, "pointer must be true or false; got None"),
        ({"max_steps": True}, "max_steps must be a whole number of at least 0; got True"),
        ({"unanswerable": "half"}, "unanswerable must be a share of 0 .. 1; got 'half'"),
        ({"seed": "abc"}, "seed must be a whole number below .*; got 'abc'"),
        ({"seed": None}, "seed must be a whole number below .*; got None"),
        ({"seed": 1.5}, "seed must be a whole number below .*; got 1.5"),
        ({"seed": 2**64}, "seed must be a whole number below"),
        ({"adam_beta2": 1.5}, "adam_beta2 must be a number from 0 to below 1; got 1.5"),
        ({"weight_decay": "x"}, "weight_decay must be a number of at least 0; got 'x'"),
        ({"projection_rate": "x"}, "projection_rate must be a number of at least 0; got 'x'"),
        ({"learning_rate": math.inf}, "learning_rate must be a number above 0; got inf"),
        ({"layers": []}, "layers must be a list of ascending layers, .*; got "),
        ({"layers": [2, 1]}, "layers must be a list of ascending layers, .*; got "),
        ({"layers": [1, "x"]}, "layers must be a list of ascending layers, .*; got "),
        ({"layers": [1, 2], "evidence_layer": 3}, r"evidence_layer must be one of layers \(1, 2\), or null; got 3"),
        ({"evidence_layer": -1}, "evidence_layer must be a layer, or null; got -1"),
        ({"question_head": "foo"}, "question_head must be linear or mlp or null; got 'foo'"),
        ({"question_hidden_dim": 0}, "question_hidden_dim must be a whole number of at least 1; got 0"),
        ({"prompt": "hi"}, r"prompt must be a text with \{question\} in it, or null; got 'hi'"),
        ({"prompt": ""}, r"prompt must be a text with \{question\} in it, or null; got ''"),
        ({"answer": "x"}, r"answer must be a text with \{property\}, \{name\} and \{value\} in it, each once; got 'x'"),
        ({"refusal": ""}, "refusal must be a text that is not empty; got ''"),
        ({"model": None}, "model must be a text that is not empty; got None"),
        ({"encoder": 7}, "encoder must be a text that is not empty, or null; got 7"),
        ({"question_head": None}, "set retrieval_steps to 0 or question_head to mlp"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_refuses(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingConfigError, match=message):
        TrainingConfig(**bad)


def test_every_setting_has_a_rule() -> None:
    assert config._RULES.keys() == {field.name for field in dataclasses.fields(TrainingConfig)}
    for wrong in (object(), "", float("nan")):
        for field in dataclasses.fields(TrainingConfig):
            with pytest.raises(TrainingConfigError):
                TrainingConfig(**{field.name: wrong})


def test_bfloat16_is_for_what_multiplies_it_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, expected in ((["avx2"], False), (["avx2", "avx512_bf16"], True)):
        monkeypatch.setattr("kblam_kernels.tools.env.cpu", lambda flags=flags: {"flags": flags})
        assert TrainingConfig().on("cpu").bf16 is expected
        assert TrainingConfig().on("cuda").bf16 is True
        for told in (True, False):
            assert TrainingConfig(bf16=told).on("cpu").bf16 is told


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, 0),
        ({"max_steps": 7}, 7),
        ({"pointer": False}, 500),
        ({"retrieval_steps": 0}, 500),
        ({"question_head": None, "retrieval_steps": 0}, 500),
        ({"pointer": False, "max_steps": 0}, 0),
    ],
    ids=str,
)
def test_the_language_model_is_read_where_nothing_else_teaches(given: dict[str, Any], steps: int) -> None:
    assert TrainingConfig(**given).max_steps == steps


def test_flags_are_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("max_steps: 7\nlayers: [1, 2]\nlearning_rate: 0.5\n")
    read = TrainingConfig.read(file, **_flags(["--learning-rate=1e-3", "--seed", "4"]))
    assert (read.max_steps, read.layers, read.learning_rate, read.seed) == (7, (1, 2), 1e-3, 4)
    assert TrainingConfig.read(file).to_dict()["layers"] == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_step: 3\nzzz: 1", r"unknown names in the training config: max_step \(did you mean max_steps\?\), zzz; "),
        ("max_steps: 3\nseed: 1\nmax_steps: 5", "cannot read the training config .*: line 3: max_steps stands there"),
        ("- 1", "holds no `name: value` lines"),
        ("seed: 1\na: [", "cannot read the training config .*: line 2: expected the node content"),
    ],
)
def test_a_file_that_is_no_config_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(TrainingConfigError, match=message):
        TrainingConfig.read(tmp_path / "run.yaml")
    with pytest.raises(TrainingConfigError, match="cannot read the training config"):
        TrainingConfig.read(tmp_path / "missing.yaml")


def test_a_number_without_a_point_is_one(tmp_path: Path) -> None:
    """YAML takes 1e-3 for a text, and everybody writes rates so."""
    (tmp_path / "run.yaml").write_text("learning_rate: 1e-3\nweight_decay: 1e-2\nmodel: 1e3\n")
    read = TrainingConfig.read(tmp_path / "run.yaml")
    assert (read.learning_rate, read.weight_decay, read.model) == (1e-3, 1e-2, "1e3")
    (tmp_path / "run.yaml").write_text("learning_rate: fast\n")
    with pytest.raises(TrainingConfigError, match="learning_rate must be a number above 0; got 'fast'"):
        TrainingConfig.read(tmp_path / "run.yaml")


def test_flags_that_cannot_be_read() -> None:
    with pytest.raises(CommandError, match="there is no setting --json; --settings lists them"):
        _flags(["--json"])
    with pytest.raises(CommandError, match="settings are given as --name value"):
        _flags(["max_steps", "3"])
    with pytest.raises(CommandError, match="--max_steps has no value"):
        _flags(["--max_steps"])
    with pytest.raises(CommandError, match="cannot read the value of --layers"):
        _flags(["--layers", "[1"])


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml")), ids=lambda file: file.stem
)
def test_every_experiment_can_be_read(file: Path) -> None:
    if file.stem not in ("invented", "near"):
        assert TrainingConfig.read(file).model
