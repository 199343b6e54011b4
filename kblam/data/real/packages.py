"""Folders of packages that are read as data, never imported: their own requirements need not be there."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from kblam.errors import DataError
from kblam.shipped import DOCS


def package_folder(package: str, install: str, source: Path | None = None) -> Path:
    """Where a package lies.

    Args:
        package: its import name.
        install: the command for the message when it is missing.
        source: a folder that holds it, in place of Python's own.

    Raises:
        DataError: it is not there.
    """
    if source is not None:
        folder = source / package
        if not folder.is_dir():
            raise DataError(f"{source} holds no package {package}; bring it there by: {install} --target {source}")
        return folder
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"the package {package} is not installed: {install}")
    return Path(spec.submodule_search_locations[0])


def data_file(folder: Path, *parts: str) -> Path:
    """A file of a package.

    Raises:
        DataError: this version of the package has no such file.
    """
    path = folder.joinpath(*parts)
    if not path.is_file():
        raise DataError(
            f"{folder} has no {'/'.join(parts)}: another version of the package? {DOCS / 'data.md'} names ours"
        )
    return path


def table(path: Path, delimiter: str = ",") -> Iterator[dict[str, str]]:
    """The rows of a file with a header, cells without surrounding blanks; missing cells are empty."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter=delimiter):
            yield {key: (cell or "").strip() for key, cell in row.items() if key}
