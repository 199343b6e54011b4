"""Finding triples by words.

Substrings by a scan, not FTS5: it works alike in every script, also those without spaces, needs no second index in step
with the triples, and 1 M names take a fraction of a second (docs/knowledge.md).
"""

from __future__ import annotations

import sqlite3
import unicodedata
from typing import Any

from kblam.knowledge.connection import whole
from kblam.knowledge.triples import identity_of

# Words at most: each is a variable of a statement, and old SQLite allows 999.
_WORDS = 500


def search(sql: sqlite3.Connection, columns: str, text: str, limit: int, *, everywhere: bool) -> list[Any]:
    """`columns` of the rows of `triples` that `Store.search` describes, best first.

    Raises:
        TripleFormatError: no name can hold the text.
    """
    if isinstance(text, str) and not text.strip():
        return []
    folded = fold(identity_of(text, "any")[0]).strip()
    words = folded.split()[:_WORDS]
    if not words:
        return []
    names = " AND ".join("instr(folded, ?) > 0" for _ in words)
    order = "instr(folded, ?) <> 1, length(folded), folded, id LIMIT ?"

    raised: list[BaseException] = []

    def holds(name: str, property: str, value: str) -> bool:
        try:
            # A line feed is in no word, so no word is found across two texts.
            whole = f"{name}\n{fold(property)}\n{fold(value)}"
            return all(word in whole for word in words)
        except BaseException as error:  # Ctrl-C above all, of which SQLite would only say that a function failed
            raised.append(error)
            raise

    select = f"SELECT {columns} FROM triples WHERE"
    if everywhere:
        sql.create_function("kblam_holds", 3, holds, deterministic=True)
        select = f"{select} kblam_holds(folded, property, value) ORDER BY NOT ({names}), {order}"
    else:
        select = f"{select} {names} ORDER BY {order}"
    try:
        return sql.execute(select, (*words, folded, max(0, whole("limit", limit)))).fetchall()
    except sqlite3.Error:
        if raised:
            raise raised[0] from None
        raise


def fold(text: str) -> str:
    """As `search` compares: without case, and with compatibility forms (full-width letters, ligatures) alike."""
    if text.isascii():
        return text.lower()  # what the rest comes to, five times as fast
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
