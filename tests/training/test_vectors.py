"""Vectors are encoded once: across runs, and across a run that was killed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from kblam.errors import TrainingError
from kblam.knowledge.encoders import Progress
from kblam.training import vectors as module
from kblam.training.vectors import Vectors
from tests.fakes import HashingEncoder


class Counting(HashingEncoder):
    """Remembers what it encoded; breaks off after so many texts."""

    def __init__(self, dimension: int = 8, most: int = 10**6) -> None:
        super().__init__(dimension)
        self.encoded: list[str] = []
        self.most = most

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> np.ndarray:
        if len(self.encoded) + len(texts) > self.most:
            raise KeyboardInterrupt
        self.encoded += texts
        return super().encode(texts, progress=progress)


TEXTS = [f"text {'long ' * (number % 3)}{number}" for number in range(23)]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 4)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_a_text_is_encoded_once_whatever_else_a_run_mentions(tmp_path: Path) -> None:
    encoder = Counting()
    first = Vectors(TEXTS[:15], encoder, tmp_path)
    second = Vectors([*TEXTS, *TEXTS], encoder, tmp_path)
    assert sorted(encoder.encoded) == sorted(TEXTS)
    assert (first.encoded, second.encoded) == (15, len(TEXTS) - 15)
    assert torch.equal(first.table[first.rows(TEXTS[:15])], second.table[second.rows(TEXTS[:15])])
    expected = torch.from_numpy(HashingEncoder(8).encode(TEXTS).astype(np.float16))
    assert torch.equal(second.table[second.rows(TEXTS)], expected)
    Vectors(TEXTS, Counting(16), tmp_path)  # another encoder finds nothing of it
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    unbroken = Vectors(TEXTS, Counting(), tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        Vectors(TEXTS, Counting(most=10), tmp_path / "broken")
    (unfinished := files(tmp_path / "broken")[0]).with_name(f".{unfinished.stem}.1.part.safetensors").write_bytes(b"a")
    encoder, told = Counting(), list[tuple[int, int]]()
    resumed = Vectors(TEXTS, encoder, tmp_path / "broken", lambda done, total: told.append((done, total)))
    assert len(encoder.encoded) == 15
    assert told[-1] == (15, 15)
    assert torch.equal(resumed.table, unbroken.table)
    assert [path.name for path in files(tmp_path / "broken") if path.name[0] != "."] == [
        path.name for path in files(tmp_path / "unbroken")
    ]


def test_a_folder_that_cannot_be_written_is_told_before_a_text_is_encoded(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    encoder = Counting()
    with pytest.raises(TrainingError, match="file is no folder that may be written; choose another cache"):
        Vectors(TEXTS, encoder, tmp_path / "file")
    assert encoder.encoded == []


@pytest.mark.parametrize("damage", ["cut", "dtype", "width", "rows", "name", "not a number"])
def test_a_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    Vectors(TEXTS, Counting(), tmp_path)
    path = files(tmp_path)[2]
    found = load_file(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        keys, vectors = found["keys"], found["vectors"].copy()
        if damage == "not a number":
            vectors[1, 2] = np.nan
        changed = {
            "dtype": {"keys": keys, "vectors": vectors.astype(np.float32)},
            "width": {"keys": keys, "vectors": np.ascontiguousarray(vectors[:, :5])},
            "rows": {"keys": keys[:2].copy(), "vectors": vectors},
            "name": {"keys": keys},
            "not a number": {"keys": keys, "vectors": vectors},
        }
        save_file(changed[damage], path)
    with pytest.raises(TrainingError, match=f"{path.name} is damaged: .*; delete it, since what it had is encoded"):
        Vectors(TEXTS, Counting(), tmp_path)
    path.unlink()
    encoder = Counting()
    Vectors(TEXTS, encoder, tmp_path)
    assert len(encoder.encoded) == 4


def test_an_encoder_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    class Broken(HashingEncoder):
        def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> np.ndarray:
            return super().encode(texts, progress=progress) * np.float32(1e6)

    with pytest.raises(TrainingError, match="gives numbers that float16 does not hold; take another"):
        Vectors(TEXTS, Broken(8), tmp_path)
    assert not files(tmp_path)
