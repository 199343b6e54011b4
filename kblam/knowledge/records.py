"""From a record, an object or a row of a table, to triples: long, wide or nested."""

from __future__ import annotations

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kblam.counts import many
from kblam.errors import TripleFormatError
from kblam.knowledge.columns import (
    FIELD_NAMES,
    Columns,
    Plan,
    choice,
    find_column,
    fold_column,
    missing,
    plan_of,
    quoted,
)
from kblam.knowledge.fields import kind_of, shortened
from kblam.knowledge.sources import SOURCES, Source, are_sources, read_sources
from kblam.knowledge.triples import DEFAULT_PROPERTY, FIELDS, Triple

logger = logging.getLogger("kblam")

# Objects and lists under these names hold the properties of the record that they are in.
_HOLDERS = frozenset(
    (
        *("properties", "attributes", "facts", "relations", "triples", "claims", "statements"),
        *("fields", "details", "data", "info"),
    )
)
# What facts are numbered by: 7, a UUID.
_NUMBER = re.compile(r"\d+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_DEEPEST = 8
_PLANS = 1000  # that are remembered: files in which every object has other keys are read too
_SHOWN, _COUNTED = 6, 1000


class RecordReader:
    """Reads records one by one, and notes how it took them.

    Args:
        columns: the user's choice; what is not chosen is told by its name.
    """

    def __init__(self, columns: Columns | None = None) -> None:
        self.columns = columns or Columns()
        self.unread: Counter[str] = Counter()
        self.records = 0  # read so far
        self._guesses: dict[tuple[str, str], None] = {}
        self._titles: dict[str, None] = {}
        self._properties: dict[str, None] = {}
        self._keyed = False
        self._joined = 0
        self.merged = 0  # cells of rows below the one that they stand in
        self.sheet = ""  # that is being read, of a workbook with several
        self._plans: dict[tuple[tuple[str, ...], bool], Plan | TripleFormatError] = {}
        self._met: set[str] = set()
        self._of_facts: set[str] = set()
        self._of_entities: set[str] = set()

    @property
    def where(self) -> str:
        """What errors begin with, since a line is found in each sheet."""
        return f"sheet {self.sheet!r}: " if self.sheet else ""

    def plan(self, keys: Sequence[str], *, has_name: bool = False) -> Plan:
        """How records with these keys are read.

        Raises:
            TripleFormatError: see `plan_of`.
        """
        key = (tuple(keys), has_name)
        if key not in self._plans:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            self._met.update(column for column in self._wanted() if find_column(column, keys) is not None)
            try:
                self._plans[key] = plan_of(keys, self.columns, has_name=has_name)
            except TripleFormatError as error:
                self._plans[key] = error
        found = self._plans[key]
        if isinstance(found, TripleFormatError):
            raise type(found)(str(found))
        return found

    def is_named(self, record: object) -> bool:
        """Whether a record says which entity it is about."""
        if not isinstance(record, Mapping):
            return isinstance(record, list) and _is_row(record)
        try:
            plan = self.plan(_keys_of(record))
        except TripleFormatError:
            return False
        return all(isinstance(record[column], str | int | float) for column in plan.fields.get("name", ()))

    def read(self, record: object) -> list[Triple]:
        """The facts of a record.

        Raises:
            TripleFormatError: it is none, or lacks a field, or holds what cannot be text.
        """
        self.records += 1
        if isinstance(record, list) and _is_row(record):
            return [self._of_row(record)]
        return self._read(record)

    def guess(self, column: str, field: str) -> None:
        """Notes that a column was taken for a field that nobody called it."""
        if column.lower() != field and len(self._guesses) < _COUNTED:
            self._guesses[column, field] = None

    def leave(self, column: str) -> None:
        """Notes that what a record holds in this column was not read."""
        if column in self.unread or len(self.unread) < _COUNTED:
            self.unread[column] += 1

    def notes(self) -> list[str]:
        """What was guessed so far, a sentence each."""
        notes = []
        if self._guesses:
            notes.append("read " + ", ".join(f"{column!r} as {field}" for column, field in self._guesses))
        if self._properties:
            title = f", named by {' or '.join(map(repr, self._titles))}," if self._titles else ""
            shown = ", ".join(name[:40] for name in list(self._properties)[:_SHOWN])
            more = len(self._properties) - _SHOWN
            at_least = "at least " if len(self._properties) == _COUNTED else ""
            notes.append(
                f"read each record as one entity{title} with the properties {shown}"
                + (f" and {at_least}{more:,} more" if more > 0 else "")
            )
        if self._keyed:
            notes.append("read the keys of an object as the names of its entities")
        if self._joined:
            notes.append(f"joined lists of values with commas ({_times(self._joined)})")
        if self.merged:
            notes.append(f"read merged cells in each of their rows ({_times(self.merged)})")
        return notes

    def tell(self, where: str) -> None:
        """Logs what was guessed, and in a warning what was not read."""
        for note in self.notes():
            logger.info("%s: %s", where, note)
        if self.unread:
            unread: Counter[str] = Counter()
            for name, times in self.unread.items():
                unread[name if name.strip() else ""] += times  # of several columns without a name as one
            shown = ", ".join(
                f"{repr(name[:40]) if name else 'a column without a name'} ({_times(times)})"
                for name, times in unread.most_common(_SHOWN + 2)
            )
            logger.warning("%s: fields that are no part of a triple were not read: %s", where, shown)

    def check(self) -> None:
        """After all records: whether they were all read in one sense.

        Raises:
            TripleFormatError: a chosen column is in no record, or the column that holds the property or the value of
                some records was taken for a property of others.
        """
        if unmet := [column for column in self._wanted() if column not in self._met]:
            raise TripleFormatError(f"no record has the column {unmet[0]!r} that was chosen")
        if torn := self._of_facts & self._of_entities:
            raise _torn(min(torn))

    def _wanted(self) -> list[str]:
        return [*self.columns.chosen.values(), *self.columns.ignore]

    # --- objects -----------------------------------------------------------------------------------------

    def _read(self, record: object, name: str | None = None) -> list[Triple]:
        if not isinstance(record, Mapping):
            raise TripleFormatError(f"expected an object with fields, got {kind_of(record)}: {shortened(record)}")
        if name is None and not self.is_named(record):
            if held := [key for key in _keys_of(record) if _holds(key) and isinstance(record[key], Mapping)]:
                return self._read(_merged(record, held[0]))
            if self._is_keyed(record):
                self._keyed = True
                return [triple for key, inner in record.items() for triple in self._of_key(key, inner)]
        keys = _keys_of(record)
        plan = self.plan(keys, has_name=name is not None)
        for column, field in plan.guesses:
            if not plan.properties:
                self.guess(column, field)
        for column in plan.unread:
            if _is_empty(record[column]) or (column == SOURCES and are_sources(record[column])):
                continue
            self.leave(column)
        if plan.properties:
            if torn := self._of_facts.intersection(plan.properties):
                raise _torn(min(torn))
            self._of_entities.update(plan.properties if len(self._of_entities) < _COUNTED else ())
            return self._wide(record, plan, name)
        if "property" in plan.fields:
            self._of_facts.update(plan.fields["property"], plan.fields.get("value", ()))
        return self._long(record, plan, name)

    def _long(self, record: Mapping[str, object], plan: Plan, name: str | None) -> list[Triple]:
        fields: dict[str, str] = {} if name is None else {"name": name}
        inner: Mapping[str, object] | None = None
        for field, columns in plan.fields.items():
            for column in columns:
                given = record[column]
                if field == "value" and isinstance(given, Mapping) and len(columns) == 1:
                    inner = given
                    continue
                text = self._text(column, given, is_value=field == "value")
                if text is not None and fields.setdefault(field, text) != text:
                    options = quoted(columns, " and ")
                    raise TripleFormatError(f"fields {options} are names of one field but differ; keep one of them")
        for field in ("name", "value"):
            if field not in fields and not (field == "value" and inner):
                raise _empty(field, plan, list(record))
        fields.setdefault("property", DEFAULT_PROPERTY)
        if inner is None:
            return [Triple(**fields, sources=_sources_of(record, plan))]
        return self._facts(fields["name"], fields["property"], inner)

    def _wide(self, record: Mapping[str, object], plan: Plan, name: str | None) -> list[Triple]:
        for column in plan.fields.get("name", ()):
            text = self._text(column, record[column])
            if name is not None and text is not None and text != name:
                raise TripleFormatError(_two_names(name, text))
            name = text if name is None else name
            self._titles.setdefault(column)
        if name is None:
            raise _empty("name", plan, list(record))
        found: list[Triple] = []
        for column in plan.properties:
            found += self._facts(name, column, record[column])
        if not found:
            raise TripleFormatError(
                f"{shortened(name)} has no value in any of its {many(len(plan.properties), 'property', 'properties')}"
            )
        return found

    def _facts(self, name: str, path: str, given: object, depth: int = 0) -> list[Triple]:
        """The facts in the value of a property; of an inner object each member is one."""
        if isinstance(given, list) and any(isinstance(item, Mapping) for item in given):
            if not _holds(path):
                raise TripleFormatError(
                    f"field {path!r} is a list of objects, which is no value; make a record of each, or leave it out: "
                    f"{choice({'ignore': path})}"
                )
            numbered = self._are_numbered(given)
            return [triple for item in given for triple in self._of_item(name, item, is_numbered=numbered)]
        if isinstance(given, Mapping):
            if depth >= _DEEPEST:
                raise TripleFormatError(f"field {path[:60]!r} is nested too deeply; write its properties side by side")
            prefix = "" if _holds(path) else f"{path} "
            return [
                triple
                for key, inner in given.items()
                for triple in self._facts(name, f"{prefix}{key}", inner, depth + 1)
            ]
        text = self._text(path, given, is_value=True)
        if text is None:
            return []
        triple = Triple(name, path, text)
        if len(self._properties) < _COUNTED:
            self._properties.setdefault(triple.property)
        return [triple]

    def _of_item(self, name: str, item: object, *, is_numbered: bool) -> list[Triple]:
        """The facts of an object in a list of a record.

        One that says a whole fact, with a name of its own, keeps that. Elsewhere a name may be the one of an entity, of
        a property ({"name": "height", "unit": "m"}) or of a document.

        Args:
            is_numbered: what might be the name is the number of the fact, and no part of it.

        Raises:
            TripleFormatError: as `read`, and for two names where it is not known which one is meant.
        """
        if not isinstance(item, Mapping) or is_numbered or not self.is_named(item):
            return self._read(item, name)
        plan = self.plan(_keys_of(item))
        columns = plan.fields["name"]
        own = next((text for column in columns if (text := self._text(column, item[column])) is not None), None)
        if own is None:
            return self._read(item, name)
        guessed = [column for column, field in plan.guesses if field == "name"]
        if own != name and (guessed or not {"property", "value"} <= plan.fields.keys()):
            ignored = f", or leave {guessed[0][:40]!r} out: {choice({'ignore': guessed[0]})}" if guessed else ""
            raise TripleFormatError(f"{_two_names(name, own)}, or make a record of each{ignored}")
        return self._read(item)

    def _are_numbered(self, items: Sequence[object]) -> bool:
        """Whether the facts of a list have numbers under "id", each its own: {"id": 7, "key": "height", "value": 3}.

        One number of several facts is the thing that they are about.
        """
        numbers = [self._number_of(item) for item in items]
        return None not in numbers and len(set(numbers)) == len(numbers)

    def _number_of(self, item: object) -> str | None:
        if not isinstance(item, Mapping) or not self.is_named(item):
            return None
        plan = self.plan(_keys_of(item))
        guessed = [column for column, field in plan.guesses if field == "name"]
        if not {"property", "value"} <= plan.fields.keys() or [fold_column(column) for column in guessed] != ["id"]:
            return None
        given = item[guessed[0]]
        return str(given) if isinstance(given, str | int) and _NUMBER.fullmatch(str(given)) else None

    # --- other forms -------------------------------------------------------------------------------------

    def _is_keyed(self, record: Mapping[str, object]) -> bool:
        """Whether each key is the name of an entity: what stands under it is an object, or a list of long ones."""
        return (
            bool(record)
            and self.columns.name is None
            and all(
                isinstance(inner, Mapping)
                or (isinstance(inner, list) and inner != [] and all(isinstance(each, Mapping) for each in inner))
                for inner in record.values()
            )
        )

    def _of_key(self, key: str, inner: object) -> list[Triple]:
        if isinstance(inner, Mapping):
            has_name = self.is_named(inner) and not self._are_numbered([inner])
            return self._read(inner) if has_name else self._read(inner, key)
        assert isinstance(inner, list)
        if self._are_numbered(inner):
            return [triple for each in inner for triple in self._read(each, key)]
        found = []
        for each in inner:
            if not self.is_named(each) and self.plan(_keys_of(each), has_name=True).properties:
                raise TripleFormatError(
                    f"{key!r} holds a list of objects that do not say what they are about; give each a name, or choose "
                    f"it: {choice({'name': 'COLUMN'})}"
                )
            found += self._of_key(key, each)
        return found

    def _of_row(self, row: Sequence[object]) -> Triple:
        name, property, value = (self._text(field, given) for field, given in zip(FIELDS, row, strict=False))
        try:
            header = plan_of([str(one) for one in row])
        except TripleFormatError:
            header = None
        if header is not None and len(header.fields) == len(row):
            raise TripleFormatError(f"{shortened(row)} looks like the names of the columns, not like a fact; remove it")
        for field, text in zip(FIELDS, (name, property, value), strict=False):
            if text is None:
                raise TripleFormatError(f"the list {shortened(row)} has no {field}")
        return Triple(name or "", property or "", value or "")

    # --- values ------------------------------------------------------------------------------------------

    def _text(self, field: str, given: object, *, is_value: bool = False) -> str | None:
        """A value as text; None where there is nothing."""
        if given is None:
            return None
        if isinstance(given, bool):
            if is_value:
                return "true" if given else "false"
        elif isinstance(given, str):
            return given if given.strip() else None
        elif isinstance(given, int | float) and math.isfinite(given):
            return str(given)
        elif isinstance(given, list | tuple) and is_value:
            texts = [self._text(field, item, is_value=not isinstance(item, list | tuple)) for item in given]
            kept = list(dict.fromkeys(text.strip() for text in texts if text is not None))
            self._joined += len(kept) > 1
            return joined(kept) or None
        raise TripleFormatError(f'field "{field}" must be text, got {kind_of(given)}: {shortened(given)}')


def _sources_of(record: Mapping[str, object], plan: Plan) -> tuple[Source, ...]:
    """The sources of a record that is one fact; a field of that name which holds something else is not read."""
    given = record[SOURCES] if SOURCES in plan.unread else None
    return read_sources(given) if are_sources(given) else ()


def joined(texts: Sequence[str]) -> str:
    """Several values as one."""
    return ("; " if any("," in text for text in texts) else ", ").join(texts)


def triples_of(record: object, columns: Columns | None = None) -> list[Triple]:
    """The facts of a record, in any of the forms that a file may have.

    Raises:
        TripleFormatError: as `Triple.from_record`, but for several facts.
    """
    return RecordReader(columns).read(record)


def as_triples(items: Iterable[Triple | Mapping[str, object]], where: str) -> Iterator[Triple]:
    """Triples as they are, and those that mappings describe; at the end it is logged how these were read."""
    reader = RecordReader()
    if isinstance(items, str | os.PathLike):
        raise TripleFormatError(
            f"triples are given one or many, as Triple or as mappings; a file of them is read by "
            f"read_triples({str(items)[:100]!r}), and built by build(PATH, {str(items)[:100]!r}, encoder)"
        )
    if not isinstance(items, Iterable):
        raise TripleFormatError(f"triples are given one or many, as Triple or as mappings; got {kind_of(items)}")
    for item in items:
        if isinstance(item, Triple):
            yield item
        else:
            yield from reader.read(item)
    reader.tell(where)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _is_row(record: list[object]) -> bool:
    return len(record) == 3 and all(isinstance(one, str | int | float) for one in record)


def _holds(key: str) -> bool:
    return key.strip().casefold() in _HOLDERS


def _keys_of(record: Mapping[str, object]) -> list[str]:
    if wrong := [key for key in record if not isinstance(key, str)]:
        raise TripleFormatError(f"names of fields must be text, got {kind_of(wrong[0])}: {shortened(wrong[0])}")
    return list(record)


def _merged(record: Mapping[str, object], key: str) -> dict[str, object]:
    """The record with the members of an inner object in the place of that object."""
    inner = record[key]
    assert isinstance(inner, Mapping)
    rest = {name: given for name, given in record.items() if name != key}
    if twice := [name for name in inner if name in rest]:
        raise TripleFormatError(f'"{twice[0]}" is a field of the record and of its "{key}"; keep one of them')
    return {**rest, **inner}


def _two_names(name: str, other: str) -> str:
    return f"{shortened(name)} and {shortened(other)} are two names in one record; keep one of them"


def _torn(column: str) -> TripleFormatError:
    return TripleFormatError(
        f'"{column}" is part of a fact in other records, and here nothing makes a fact with it: a column is missing'
    )


def _is_empty(given: object) -> bool:
    return given is None or (isinstance(given, str) and not given.strip()) or given in ([], {})


def _empty(field: str, plan: Plan, keys: Sequence[str]) -> TripleFormatError:
    columns = plan.fields.get(field, ())
    if not columns:
        return missing(field, keys)
    options = " or ".join(f'"{name}"' for name in FIELD_NAMES[field])
    return TripleFormatError(f"missing field {options}: nothing stands under {quoted(columns, ' and ')}")
