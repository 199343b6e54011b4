"""Rows go to stdout, or to a file that is replaced whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kblam.bench.output import write_json


def test_a_dash_is_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    write_json([{"ms": 1.5}], "-")
    assert json.loads(capsys.readouterr().out) == [{"ms": 1.5}]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results" / "rows.json"
    write_json([1], file)
    write_json([2], file)
    assert json.loads(file.read_text()) == [2]

    def full_disk(self: Path, text: str, **_: object) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_json([3], file)
    assert json.loads(file.read_text()) == [2]
    assert list(file.parent.iterdir()) == [file], "nothing half-written stays"
