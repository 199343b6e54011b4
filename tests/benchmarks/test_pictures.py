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
    assert list(one.rows) == ["kblam latent", "kblam dense", "sdpa static cache"]
    assert list(one.rows["kblam latent"]) == [1000, 10_000]
    assert pictures.drawings(pictures.read(result(tmp_path, (0, 1000))).rows) == []


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
