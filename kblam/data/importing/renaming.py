"""Other words for properties: what people ask for is the start date, and the column says `emp_start_dt`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from kblam.errors import DataError, TripleFormatError
from kblam.knowledge.columns import quoted
from kblam.knowledge.identifiers import key
from kblam.knowledge.triples import identity_of, key_text
from kblam.strict_json import loads


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


def new_words(renames: Mapping[str, str], there: Sequence[str]) -> dict[str, str]:
    """What each property that is there is called from now on.

    A property is known by its words, however they are put together: "emp start dt" is `emp_start_dt` and `EMP_START_DT`
    too. One that has the new words in another spelling gets theirs.

    Raises:
        DataError: no property is called so, or one is to have two names.
        TripleFormatError: a property cannot be called what it is renamed to.
    """
    words_of, named = dict[str, str](), dict[str, str]()
    for old, new in renames.items():
        old_key, words = key(_cleaned(old, old)), _cleaned(old, new)
        named.setdefault(old_key, old)
        if words_of.setdefault(old_key, words) != words:
            raise DataError(f"{old!r} is renamed twice, to {words_of[old_key]!r} and {words!r}; choose one")
    keys = {prop: key(prop) for prop in there}
    missing = [old for old_key, old in named.items() if old_key not in keys.values()]
    if there and missing:  # that there is no fact at all is told elsewhere
        raise DataError(f"there is no property {missing[0]!r} to rename; the properties: {quoted(there)}")
    alike = {key(words): words for words in words_of.values()}
    return {prop: words_of.get(its_key, alike.get(its_key, prop)) for prop, its_key in keys.items()}


def without_plain_key(name: str, prop: str, extra: str) -> str:
    """The further fields of a fact, as JSON; a key text that says no more than its old name is not among them."""
    further = loads(extra) if extra else {}
    if not isinstance(further, dict) or further.get("key_string") != key_text(name, prop):
        return extra
    del further["key_string"]
    return json.dumps(further, ensure_ascii=False) if further else ""


def _cleaned(old: str, text: str) -> str:
    try:
        return identity_of("it", text)[1]
    except TripleFormatError as error:
        raise TripleFormatError(f"{old!r} cannot be renamed to {text[:40]!r}: {error.reason}") from None
