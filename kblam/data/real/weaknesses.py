"""Software weaknesses, out of cwe2 (3.0.0: CWE 4.14, 938 weaknesses): long texts, cut at the end of a sentence."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from kblam.data.real.packages import data_file, table
from kblam.data.real.texts import cut
from kblam.data.tables import words
from kblam.knowledge.triples import Triple

_FOLDER = "database_v49"
_TEXTS = {
    "Description": "description",
    "Extended Description": "further explanation",
    "Background Details": "background",
    "Likelihood of Exploit": "likelihood of an exploit",
    "Weakness Abstraction": "level of abstraction",
    "Status": "status",
}
# column -> property, the field that is the value, how many of them to join
_FIELDS = {
    "Alternate Terms": ("other name", "TERM", 3),
    "Applicable Platforms": ("programming language", "LANGUAGE NAME", 4),
    "Modes Of Introduction": ("phase of introduction", "PHASE", 3),
    "Common Consequences": ("consequence", "IMPACT", 3),
    "Potential Mitigations": ("mitigation", "DESCRIPTION", 1),
    "Detection Methods": ("detection method", "METHOD", 3),
    "Observed Examples": ("observed example", "DESCRIPTION", 1),
    "Affected Resources": ("affected resource", "", 3),
}

_OTHERS = (
    *words("SCOPE IMPACT LIKELIHOOD NOTE METHOD DESCRIPTION EFFECTIVENESS PHASE STRATEGY LINK REFERENCE TERM"),
    *("LANGUAGE NAME", "LANGUAGE CLASS", "LANGUAGE PREVALENCE"),
)


def read(folder: Path) -> Iterator[Triple]:
    """Yields the facts of each weakness, by its number."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    rows = table(data_file(folder, _FOLDER, "navigate_cwe", "1000.csv"))
    for row in sorted(rows, key=lambda row: int(row["CWE-ID"])):
        name = row["Name"]
        yield Triple(name, "CWE number", f"CWE-{row['CWE-ID']}")
        for column, prop in _TEXTS.items():
            if value := cut(row[column]):
                yield Triple(name, prop, value)
        for column, (prop, field, most) in _FIELDS.items():
            found = list(dict.fromkeys(_fields(row[column], field)))[:most]
            if found and (value := cut(", ".join(found))):
                yield Triple(name, prop, value)


def _fields(text: str, field: str) -> Iterator[str]:
    """The values of a field in CWE's own notation: `::FIELD:value:OTHER FIELD:value::FIELD:value::`."""
    for record in text.split("::"):
        if not field:
            if record.strip():
                yield record.strip()
        elif record.startswith(f"{field}:") or f":{field}:" in record:
            value = record.split(f"{field}:", 1)[1]
            # The next field begins at a colon before capitals, and texts have colons of their own.
            for other in _OTHERS:
                value = value.split(f":{other}:", 1)[0]
            if value.strip():
                yield value.strip()
