"""The chemical elements, out of mendeleev's database (1.3.0: 118 elements)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from kblam.data.real.packages import data_file
from kblam.data.real.texts import cut, number
from kblam.errors import DataError
from kblam.knowledge.triples import Triple
from kblam.shipped import DOCS

# column -> property
_TEXTS = {
    "symbol": "symbol",
    "description": "description",
    "uses": "use",
    "sources": "natural source",
    "name_origin": "origin of the name",
    "discoverers": "discoverer",
    "discovery_location": "place of discovery",
    "electronic_configuration": "electron configuration",
    "lattice_structure": "crystal structure",
    "goldschmidt_class": "Goldschmidt class",
    "cas": "CAS number",
}
# column -> property, unit
_NUMBERS = {
    "atomic_number": ("atomic number", ""),
    "atomic_weight": ("atomic weight", ""),
    "discovery_year": ("year of discovery", ""),
    "group_id": ("group", ""),
    "period": ("period", ""),
    "density": ("density", "grams per cubic centimeter"),
    "thermal_conductivity": ("thermal conductivity", "watts per meter and kelvin"),
    "specific_heat_capacity": ("specific heat capacity", "joules per gram and kelvin"),
    "evaporation_heat": ("heat of evaporation", "kilojoules per mole"),
    "fusion_heat": ("heat of fusion", "kilojoules per mole"),
    "en_pauling": ("electronegativity", ""),
    "atomic_radius": ("atomic radius", "picometers"),
    "abundance_crust": ("abundance in the crust of the earth", "milligrams per kilogram"),
    "abundance_sea": ("abundance in sea water", "milligrams per liter"),
    "price_per_kg": ("price per kilogram", "dollars"),
}


def read(folder: Path) -> Iterator[Triple]:
    """Yields the facts of each element, from hydrogen on."""
    path = data_file(folder, "elements.db")
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            heat = {
                row["atomic_number"]: row
                for row in database.execute(
                    "select atomic_number, min(melting_point) melting_point, min(boiling_point) boiling_point "
                    "from phasetransitions group by atomic_number"
                )
            }
            for row in database.execute("select * from elements order by atomic_number"):
                yield from _facts(dict(row), heat.get(row["atomic_number"]))
    except (sqlite3.Error, IndexError) as error:
        raise DataError(
            f"{path} is not the database of mendeleev 1.3 ({error}); {DOCS / 'data.md'} names our version"
        ) from error


def _facts(row: dict[str, object], heat: sqlite3.Row | None) -> Iterator[Triple]:
    name = str(row["name"]).lower()
    for column, prop in _TEXTS.items():
        text = row.get(column)
        if text and (value := cut(str(text))):
            yield Triple(name, prop, value)
    for column, (prop, unit) in _NUMBERS.items():
        amount = row.get(column)
        if isinstance(amount, (int, float)):
            yield Triple(name, prop, f"{number(amount)} {unit}".strip())
    for column in ("melting_point", "boiling_point"):
        if heat is not None and heat[column] is not None:
            yield Triple(name, column.replace("_", " "), f"{number(heat[column])} kelvin")
    if row.get("block"):
        yield Triple(name, "block", f"{row['block']} block")
    if row.get("top_3_producers"):
        yield Triple(name, "largest producers", _listed(str(row["top_3_producers"])))
    radioactive = row.get("is_radioactive")
    if radioactive is not None:
        yield Triple(name, "radioactivity", "radioactive" if radioactive else "stable")


def _listed(text: str) -> str:
    """ "1) China 2) Australia 3) Brazil" as "China, Australia and Brazil"."""
    parts = [part.strip(" ,;") for part in text.replace("2)", "1)").replace("3)", "1)").split("1)")]
    parts = [part for part in parts if part]
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else text
