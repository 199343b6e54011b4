"""Chemical compounds, out of the tables of chemicals (1.5.2): those of which a temperature is known."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from kblam.data.real.packages import data_file, table
from kblam.data.real.texts import number
from kblam.knowledge.triples import Triple

# file, column, property, unit
_MEASURED = (
    ("Phase Change/OpenNotebook Melting Points.tsv", "Tm", "melting point", "kelvin"),
    ("Phase Change/Yaws Boiling Points.tsv", "Tb", "boiling point", "kelvin"),
    ("Critical Properties/Yaws Collection.tsv", "Tc", "critical temperature", "kelvin"),
    ("Critical Properties/Yaws Collection.tsv", "Pc", "critical pressure", "pascals"),
    ("Phase Change/CRC Handbook Heat of Fusion.tsv", "Hfus", "heat of fusion", "joules per mole"),
    ("Safety/NFPA 497 2008.tsv", "T_flash", "flash point", "kelvin"),
    ("Safety/NFPA 497 2008.tsv", "T_autoignition", "autoignition temperature", "kelvin"),
)
_IDENTIFIERS = ("chemical identifiers pubchem small.tsv", "chemical identifiers pubchem large.tsv")
_LONGEST_NAME = 60


def read(folder: Path) -> Iterator[Triple]:
    """Yields the facts of each compound; the commoner ones come first."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    measured: dict[str, dict[str, str]] = {}
    for file, column, prop, unit in _MEASURED:
        for row in table(data_file(folder, *file.split("/")), "\t"):
            if row[column]:
                measured.setdefault(row["CAS"], {})[prop] = f"{number(float(row[column]))} {unit}"
    taken: set[str] = set()
    for file in _IDENTIFIERS:
        with data_file(folder, "Identifiers", file).open(encoding="utf-8") as lines:
            for line in lines:
                compound, cas, formula, mass, _, _, _, systematic, common, *_ = line.rstrip("\n").split("\t") + [""] * 9
                name = common or systematic
                if cas not in measured or not name or name.lower() in taken or len(name) > _LONGEST_NAME:
                    continue
                taken.add(name.lower())
                yield Triple(name, "molecular formula", formula)
                yield Triple(name, "molar mass", f"{number(float(mass))} grams per mole")
                yield Triple(name, "CAS number", cas)
                yield Triple(name, "PubChem number", compound)
                if systematic and systematic.lower() != name.lower() and len(systematic) <= _LONGEST_NAME:
                    yield Triple(name, "systematic name", systematic)
                for prop, value in measured[cas].items():
                    yield Triple(name, prop, value)
