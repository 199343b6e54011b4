"""Airports of the world, out of airportsdata (28,298 airports); those with an IATA code come first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kblam.data.real.packages import data_file, table
from kblam.data.real.texts import number
from kblam.knowledge.triples import Triple

_COLUMNS = {
    "iata": "IATA code",
    "icao": "ICAO code",
    "city": "city",
    "subd": "region",
    "country": "country code",
    "tz": "time zone",
}


def read(folder: Path) -> Iterator[Triple]:
    """Yields the facts of each airport whose name no other has."""
    rows = list(table(data_file(folder, "airports.csv")))
    names = Counter(row["name"].lower() for row in rows)
    for row in sorted(rows, key=lambda row: not row["iata"]):
        name = row["name"]
        if not name or names[name.lower()] > 1:
            continue
        for column, prop in _COLUMNS.items():
            if row[column]:
                yield Triple(name, prop, row[column])
        if row["elevation"]:
            yield Triple(name, "elevation", f"{number(float(row['elevation']))} feet")
        for column, prop in (("lat", "latitude"), ("lon", "longitude")):
            if row[column]:
                yield Triple(name, prop, row[column])
