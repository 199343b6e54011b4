"""What a directory of golden data holds. Shapes, names and settings come from its files, never from here."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

SHIPPED = Path(__file__).resolve().parents[1] / "data" / "golden"
VARIABLE = "KBLAM_GOLDEN"
ROOT = Path(os.environ.get(VARIABLE) or SHIPPED).resolve()
MODEL_KINDS = ("forward", "no_kb", "decode", "sparsify", "bf16_kb", "bf16")


@dataclass(frozen=True)
class Case:
    """One case: an entry of cases.json or encoder.json, and the folder it lies in."""

    folder: Path
    entry: dict[str, Any]
    kind: str

    @property
    def name(self) -> str:
        return f"{self.folder.relative_to(ROOT)}/{self.entry['name']}"

    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.folder / self.entry["file"])

    def __getitem__(self, key: str) -> Any:
        return self.entry[key]


@functools.cache
def read_json(path: Path) -> Any:
    """A JSON file, read once."""
    return json.loads(path.read_text())


@functools.cache
def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file, read once."""
    return load_file(path)


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """Every case below ROOT: `kernel` and `encoder` cases, and model cases of each configuration.

    Raises:
        pytest.UsageError: if there is none, or one of a kind that no test here runs.
    """
    cases = []
    for path in sorted([*ROOT.rglob("cases.json"), *ROOT.rglob("encoder.json")]):
        folder, is_model = path.parent, (path.parent / "config.json").exists()
        for entry in read_json(path):
            kind = "encoder" if path.name == "encoder.json" else entry["kind"] if is_model else "kernel"
            cases.append(Case(folder, entry, kind))
    unknown = {case.kind for case in cases} - {*MODEL_KINDS, "kernel", "encoder"}
    if not cases or unknown:
        found = f"cases of unknown kind {', '.join(sorted(unknown))}" if unknown else "no golden case"
        raise pytest.UsageError(f"{VARIABLE}: {found} below {ROOT}")
    return tuple(cases)


def cases_of(*kinds: str) -> list[Any]:
    """The cases of some kinds as pytest parameters."""
    return [pytest.param(case, id=case.name) for case in all_cases() if case.kind in kinds]


def configurations() -> list[Any]:
    """The folders of model cases as pytest parameters."""
    folders = sorted({case.folder for case in all_cases() if case.kind in MODEL_KINDS})
    return [pytest.param(folder, id=str(folder.relative_to(ROOT))) for folder in folders]
