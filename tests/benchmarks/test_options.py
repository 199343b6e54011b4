"""Options that the commands share: what cannot be is one line before any work, and a file says by which it was made."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks import crossover, in_context, latent_accuracy, pruning_recall, query_accuracy, scale
from benchmarks.options import document

REFUSED: dict[str, tuple[ModuleType, list[str], str]] = {
    "no triples": (crossover, ["--triples", "0"], "--triples: must be a whole number of at least 1; got '0'"),
    "a word": (crossover, ["--queries", "1", "few"], "--queries: must be a whole number of at least 1; got 'few'"),
    "a device": (crossover, ["--device", "tpu"], "--device: 'tpu' is not cpu or cuda"),
    "a device without a number": (crossover, ["--device", "cuda:first"], "'cuda:first' is not cpu or cuda"),
    "no rounds": (scale, ["--rounds", "0"], "--rounds: must be"),
    "fewer than no triples": (scale, ["--triples", "10", "-5"], "--triples: must be"),
    "products of other latents": (scale, ["--int8-products"], "these are bfloat16; add --storage int8"),
    "no latents": (latent_accuracy, ["--tokens", "0"], "--tokens: must be"),
    "no repeats": (in_context, ["--repeats", "0"], "--repeats: must be"),
    "no size": (query_accuracy, ["--sizes", "0"], "--sizes: must be"),
    "a rank below 0": (query_accuracy, ["--ranks", "-1"], "--ranks: must be a whole number of at least 0; got '-1'"),
    "no questions": (pruning_recall, ["--questions", "0"], "--questions: must be"),
}

# What a command begins its work with.
WORK = {
    crossover: "measure",
    in_context: "build",
    latent_accuracy: "draw",
    pruning_recall: "load",
    query_accuracy: "smollm2",
    scale: "build",
}


@pytest.fixture(autouse=True)
def _nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*arguments: object, **options: object) -> None:
        raise AssertionError("the work has begun")

    for command, name in WORK.items():
        monkeypatch.setattr(command, name, begun)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, options, message = REFUSED[name]
    with pytest.raises(SystemExit) as end:
        command.main(options)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [crossover, in_context, latent_accuracy, query_accuracy, scale])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    command: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        command.main(["--json", str(tmp_path)])
    assert end.value.code == 2
    assert f"--json: {tmp_path} is a folder; name a file in it" in capsys.readouterr().err


def test_a_file_says_by_which_options_it_was_made() -> None:
    given = argparse.Namespace(storage="int8", int8_products=True, json=Path("rows.json"))
    found = document(given, torch.bfloat16, rows=[1])
    assert found["options"] == {"storage": "int8", "int8_products": True}
    assert found["rows"] == [1]
    assert found["environment"]["dtype"] == "bfloat16"
    assert found["environment"]["commit"]
