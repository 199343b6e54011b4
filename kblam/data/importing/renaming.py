"""Other words for properties: what people ask for is the start date, and the column says `emp_start_dt`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from kblam.errors import DataError, TripleFormatError
from kblam.knowledge.columns import find_column, quoted
from kblam.knowledge.triples import identity_of


def parse_renames(texts: Iterable[str]) -> dict[str, str]:
    """From texts like "emp_start_dt=start date": what stands before the first "=" is renamed to what follows.

    Raises:
        DataError: a text is of another form, or one property is to have two names.
    """
    renames: dict[str, str] = {}
    for text in texts:
        old, _, new = (part.strip() for part in text.partition("="))
        if not old or not new:
            raise DataError(f"{text!r} renames nothing; write PROPERTY=WORDS, such as 'emp_start_dt=start date'")
        if renames.setdefault(old, new) != new:
            raise DataError(f"{old!r} is renamed twice, to {renames[old]!r} and {new!r}; choose one")
    return renames


def rename(sql: sqlite3.Connection, renames: Mapping[str, str]) -> None:
    """Gives the properties in the table `facts` other words, all at once, so that two may change places.

    Raises:
        DataError: no property is called so, or two renames mean one.
        TripleFormatError: a property cannot be called what it is renamed to.
    """
    there = [prop for (prop,) in sql.execute("SELECT property FROM facts GROUP BY property ORDER BY min(id)")]
    meant: dict[str, str] = {}
    for old, new in renames.items():
        found = find_column(old, there)
        if found is None:
            raise DataError(f"there is no property {old!r} to rename; the properties: {quoted(there)}")
        try:
            words = identity_of("it", new)[1]
        except TripleFormatError as error:
            raise TripleFormatError(f"{old!r} cannot be renamed to {new[:40]!r}: {error.reason}") from None
        if meant.setdefault(found, words) != words:
            raise DataError(f"{found!r} is renamed twice, to {meant[found]!r} and {words!r}; choose one")
    sql.create_function("kblam_renamed", 1, lambda prop: meant.get(prop, prop), deterministic=True)
    sql.execute("UPDATE facts SET property = kblam_renamed(property)")
