"""docs/errors.md: every row names a test that is there, every error a row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kblam import errors
from kblam_kernels import errors as kernel_errors

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "errors.md").read_text()
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| what is wrong")]
OURS = ["TripleFormatError", "EncoderError", "EncoderUnavailableError", "EncoderMismatchError", "EmbeddingError"]
OURS += ["StoreError", "StoreFormatError", "StoreWriteError", "StoreBusyError", "KnowledgeError"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_every_row_names_a_test(row: str) -> None:
    named = re.search(r"`(tests/\S+\.py)::(\w+)`", row.split("|")[-2])
    assert named is not None, row
    file, test = named.groups()
    assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file} has no {test}"


def test_the_table_names_errors_that_exist() -> None:
    named = set(re.findall(r"`(\w+Error)`", TABLE))
    assert named <= {*vars(errors), *vars(kernel_errors)}
    assert set(OURS) <= named


def test_every_error_is_a_kblam_error() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__]
    assert len(kinds) > 10
    assert all(issubclass(kind, errors.KblamError | errors.KblamWarning) and kind.__doc__ for kind in kinds)
