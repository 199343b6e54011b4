"""Pictures of a result file: what is drawn, in both forms, and what is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pictures
from kblam.bench.report import FORMAT
from kblam.bench.rows import Row
from kblam.errors import BenchmarkError

ABOUT = {"device": "cpu", "cpu": {"model": "a processor"}, "instruction_set": "avx2", "threads": 2}
ABOUT |= {"torch": "2.13.0", "commit": "abc"}


def result(tmp_path: Path, sizes: tuple[int, ...] = (1000, 10_000)) -> Path:
    rows = [
        Row(
            f"tiny decode B1 N1 T65 M{M}",
            "decode",
            name,
            None,
            "float32",
            seconds=M * 1e-6,
            knowledge_bytes=8 * M,
            share_of_ceiling=0.5,
        )
        for M in sizes
        for name in ("kblam latent", "kblam dense", "sdpa static cache")
    ]
    refused = Row("tiny decode B1 N1 T65 M1000", "decode", "two cuDNN calls + merge", None, status="not run")
    file = tmp_path / "result.json"
    content: dict[str, Any] = {"format": FORMAT, "environment": ABOUT, "models": []}
    file.write_text(json.dumps(content | {"rows": [dataclasses.asdict(row) for row in [*rows, refused]]}))
    return file


def test_what_has_one_size_or_no_time_is_not_drawn(tmp_path: Path) -> None:
    (one,) = pictures.drawings(pictures.read(result(tmp_path, (0, 1000, 10_000))).rows)
    assert one.name == "tiny decode B1 N1 T65 float32"
    assert one.title == "Attention of tiny, decode: 1 new token after 64, float32"
    time, read, share = one.panels
    assert (time.name, read.name, share.name) == ("time", "bytes", "share")
    assert list(time.lines) == ["kblam latent", "kblam dense", "sdpa static cache"]
    assert time.lines["kblam latent"] == {1000: 1.0, 10_000: 10.0}, "milliseconds"
    assert read.lines["kblam dense"] == {1000: 0.008, 10_000: 0.08}, "MB"
    assert pictures.drawings(pictures.read(result(tmp_path, (0, 1000))).rows) == []


def model_file(tmp_path: Path, **about: Any) -> Path:
    """Of benchmarks/test_model.py: eight tokens in 2 s without knowledge, 4 s with a thousand triples."""
    timed = [("without knowledge", 100, 2.0), ("kblam latent", 100, 2.5), ("kblam latent", 1000, 4.0)]
    entries: list[dict[str, Any]] = [
        {
            "group": f"Llama-3.2-1B {what} M{triples}",
            "stats": {"median": seconds},
            "extra_info": {"implementation": name, "tokens": 8},
        }
        for what in ("next 8 tokens", "first token")
        for name, triples, seconds in timed
    ]
    other = {"group": "into a file M100", "stats": {"median": 1.0}, "extra_info": {"implementation": "kblam"}}
    file = tmp_path / "model.json"
    file.write_text(json.dumps({"environment": ABOUT | about, "benchmarks": [*entries, other]}))
    return file


def test_a_model_has_tokens_a_second_and_seconds_to_the_first(tmp_path: Path) -> None:
    (one,) = pictures.of_models(pictures.read_models([model_file(tmp_path)]))
    assert one.title == "Llama-3.2-1B, whole model"
    tokens, first = one.panels
    assert tokens.lines["kblam latent"] == {100: 3.2, 1000: 2.0}
    assert tokens.lines["without knowledge"] == {100: 4.0, 1000: 4.0}, "whatever its size is called"
    assert first.lines["kblam latent"] == {100: 2.5, 1000: 4.0}


def test_files_of_one_run_make_one_picture_and_others_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    first, second = tmp_path / "a", tmp_path / "b"
    for folder, sizes in ((first, (1000,)), (second, (10_000,))):
        folder.mkdir()
        result(folder, sizes)
    files = [first / "result.json", second / "result.json"]
    (one,) = pictures._found(files)
    assert list(one.panels[0].lines["kblam latent"]) == [1000, 10_000]
    stored = json.loads(files[1].read_text())
    stored["environment"]["commit"] = "other"
    files[1].write_text(json.dumps(stored))
    assert pictures.main(list(map(str, files))) == 2
    assert "b/result.json has commit 'other', another file 'abc'" in capsys.readouterr().err


def test_lines_and_panels_can_be_chosen(tmp_path: Path) -> None:
    (one,) = pictures.drawings(pictures.read(result(tmp_path)).rows)
    few = pictures.chosen(one, ["kblam dense"], ["time"])
    assert [(panel.name, list(panel.lines)) for panel in few.panels] == [("time", ["kblam dense"])]
    with pytest.raises(BenchmarkError, match=r"--only: tiny decode .* has no 'kblam fast'; it has kblam dense, "):
        pictures.chosen(one, ["kblam fast"], [])
    with pytest.raises(BenchmarkError, match=r"--panels: tiny decode .* has no 'tokens'"):
        pictures.chosen(one, [], ["tokens"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"benchmarks": []}', "does not say which machine and commit it is of"),
        ('{"environment": {}, "benchmarks": []}', "no whole model; run benchmarks/test_model.py"),
        (
            '{"environment": {}, "benchmarks": [{"group": "m first token M1"}]}',
            "is no file of benchmarks/test_model.py",
        ),
    ],
)
def test_a_suites_file_that_says_nothing_of_models_is_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "suite.json"
    file.write_text(content)
    with pytest.raises(BenchmarkError, match=message):
        pictures.read_models([file])


def test_both_forms_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "pictures"
    assert pictures.main([str(result(tmp_path)), "-o", str(folder)]) == 0
    files = sorted(file.name for file in folder.iterdir())
    assert files == ["tiny-decode-B1-N1-T65-float32-dark.svg", "tiny-decode-B1-N1-T65-float32.svg"]
    light, dark = ((folder / name).read_text() for name in reversed(files))
    assert light != dark
    assert "#0d1117" in dark
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_model_is_drawn_too(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert pictures.main([str(model_file(tmp_path)), "-o", str(tmp_path / "out")]) == 0
    shown = (tmp_path / "out" / "Llama-3.2-1B-whole-model.svg").read_text()
    assert "without knowledge" in shown, "names stand at the ends of the lines"


def test_what_cannot_be_drawn_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert pictures.main([str(result(tmp_path, (1000,))), "-o", str(tmp_path)]) == 2
    assert "has no shape with two sizes of knowledge" in capsys.readouterr().err
    assert pictures.main([str(tmp_path / "nothing.json")]) == 2
    assert "cannot read" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert pictures.main([str(result(tmp_path))]) == 2
    assert "pip install 'kblam-kernels[eval]'" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = result(tmp_path)
    assert pictures.main([str(file), "-o", str(file)]) == 2
    assert capsys.readouterr().err == f"BenchmarkError: --output: {file} is no folder that may be written\n"
