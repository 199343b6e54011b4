"""docs/errors.md: every row names a test that is there, every error a row."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from kblam import errors
from kblam_kernels import errors as kernel_errors

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "errors.md").read_text()
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| what is wrong")]
# Bases, which are not raised themselves; and why a backend cannot be had, which its own error says.
WITHOUT_ROW = {"KblamError", "KernelError", "BuildError"}


def kinds_of(module: ModuleType) -> list[type]:
    return [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_every_row_names_a_test(row: str) -> None:
    named = re.search(r"`(tests/\S+\.py)::(\w+)`", row.split("|")[-2])
    assert named is not None, row
    file, test = named.groups()
    assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file} has no {test}"


def test_the_table_names_the_errors_that_exist() -> None:
    named = set(re.findall(r"`(\w+Error)`", TABLE))
    ours = {kind.__name__ for module in (errors, kernel_errors) for kind in kinds_of(module)}
    assert named <= ours
    in_rows = set(re.findall(r"`(\w+Error)`", "\n".join(ROWS)))
    # Of triples there is one kind, which stands above their table.
    assert {name for name in ours - in_rows if name.endswith("Error")} == WITHOUT_ROW


def test_every_error_is_a_kblam_error() -> None:
    kinds = kinds_of(errors)
    assert len(kinds) > 10
    assert all(issubclass(kind, errors.KblamError | errors.KblamWarning) and kind.__doc__ for kind in kinds)
