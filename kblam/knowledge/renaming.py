"""Other words for properties: what people ask for is the start date, and the column says `emp_start_dt`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from kblam.errors import DataError, TripleFormatError
from kblam.knowledge.columns import quoted
from kblam.knowledge.identifiers import key
from kblam.knowledge.triples import Triple, identity_of, key_text
from kblam.strict_json import loads

_MOST_SHOWN = 1000  # of the properties that are there, for a message that counts them


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


class Renames:
    """What each property is called from now on.

    A property is known by its words, however they are put together: "emp start dt" is `emp_start_dt` and `EMP_START_DT`
    too. One that has the new words in another spelling gets theirs.

    Args:
        renames: other words for properties.

    Raises:
        DataError: one is to have two names.
        TripleFormatError: a property cannot be called what it is renamed to.
    """

    def __init__(self, renames: Mapping[str, str]) -> None:
        self._words, self._named = dict[str, str](), dict[str, str]()
        for old, new in renames.items():
            old_key, words = key(_cleaned(old, old)), _cleaned(old, new)
            self._named.setdefault(old_key, old)
            if self._words.setdefault(old_key, words) != words:
                raise DataError(f"{old!r} is renamed twice, to {self._words[old_key]!r} and {words!r}; choose one")
        self._alike = {key(words): words for words in self._words.values()}
        self._met: set[str] = set()
        self._shown: dict[str, None] = {}

    def of(self, prop: str) -> str:
        """What a property is called."""
        its_key = key(prop)
        if its_key in self._words:
            self._met.add(its_key)
        if len(self._shown) < _MOST_SHOWN:
            self._shown.setdefault(prop)
        return self._words.get(its_key, self._alike.get(its_key, prop))

    def applied(self, triple: Triple) -> Triple:
        """The triple under its new property; a key text that says no more than its old name goes."""
        new = self.of(triple.property)
        if new == triple.property:
            return triple
        is_plain = triple.key_string == key_text(triple.name, triple.property)
        return replace(triple, property=new, key_string=None if is_plain else triple.key_string)

    def check(self) -> None:
        """After all properties: whether each that is to be renamed was there.

        Raises:
            DataError: one was not; that there was none at all is told elsewhere.
        """
        missing = [old for its_key, old in self._named.items() if its_key not in self._met]
        if missing and self._shown:
            there = quoted(list(self._shown))
            raise DataError(f"there is no property {missing[0]!r} to rename; the properties: {there}")


def new_words(renames: Mapping[str, str], there: Sequence[str]) -> dict[str, str]:
    """What each property that is there is called from now on.

    Raises:
        DataError, TripleFormatError: as `Renames`, and as its `check`.
    """
    chosen = Renames(renames)
    words = {prop: chosen.of(prop) for prop in there}
    chosen.check()
    return words


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
