"""Which column of a table, or key of an object, is which field of a triple: chosen by the user, or told by its name.

Two forms are known. *Long*: a row is one fact, with a column each for name, property and value. *Wide*: a row is an
entity, and each column but that of the name is a property. What could be either, or two columns for one field, is
refused with the choice to make.
"""

from __future__ import annotations

import builtins
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from kblam.errors import TripleFormatError, argument

# Each field of a triple and the names it may have: ours, the short form's, upstream's.
FIELD_NAMES: dict[str, tuple[str, ...]] = {
    "name": ("name", "entity"),
    "property": ("property", "description_type"),
    "value": ("value", "description"),
    "key_string": ("key_string",),
    "question": ("question", "Q"),
    "answer": ("answer", "A"),
}
_FACT = ("name", "property", "value")
_FURTHER = ("key_string", "question", "answer")
IGNORE = "ignore"
_SHOWN = 12
# The commands that are told how a file of triples is to be read, and those that are told its columns.
READING = ("kb build", "kb add")
MAPPING = (*READING, "data import")


def fold_column(column: str) -> str:
    """A column's name as names are compared: without case, spaces, underscores and the like."""
    folded = unicodedata.normalize("NFKC", column).casefold()
    return "".join(character for character in folded if character.isalnum())


def _keys(names: str) -> frozenset[str]:
    return frozenset(map(fold_column, names.split()))


_OURS = {name: frozenset(map(fold_column, names)) for name, names in FIELD_NAMES.items()}
# Names that others give to the three columns. Each counts only in a table that has all three of its row.
_FAMILIES: tuple[tuple[frozenset[str], ...], ...] = (
    (
        _OURS["name"] | _keys("subject subj subject_label subject_name head head_entity entity_name"),
        _OURS["property"]
        | _keys("predicate pred predicate_label relation rel relation_type relationship attribute attr attribute_name")
        | _keys("property_name property_label"),
        _OURS["value"]
        | _keys("object obj object_label object_name tail tail_entity attribute_value property_value val"),
    ),
    (_OURS["name"] | _keys("item id subject"), _keys("key field"), _keys("value val")),
    (_keys("s"), _keys("p"), _keys("o")),
    (_keys("h"), _keys("r"), _keys("t")),
    (
        _keys("source from node1 start"),
        _keys("relation rel relation_type relationship predicate edge label type"),
        _keys("target to node2 end"),
    ),
)
# What the column of the name is called in wide tables, if nothing is called name or entity.
_TITLES = _keys("title label subject head item term word topic concept")


@dataclass(frozen=True, slots=True)
class Columns:
    """The user's choice of columns; what is None is told by its name.

    Only `name` chosen, and no column that is known to hold values: each row is an entity, and each other column that
    is not in `ignore` a property of it.

    Args:
        name, property, value, key_string, question, answer: the columns, as the file names them or in another case.
            In a CSV file without a header line, their numbers, from 1.
        ignore: columns that are not read.

    Raises:
        TripleFormatError: one column is chosen twice.
    """

    name: str | None = None
    property: str | None = None
    value: str | None = None
    key_string: str | None = None
    question: str | None = None
    answer: str | None = None
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        chosen = [*self.chosen.values(), *self.ignore]
        if twice := [column for column in dict.fromkeys(chosen) if chosen.count(column) > 1]:
            raise TripleFormatError(f"the column {twice[0]!r} is chosen twice; choose each once")

    @builtins.property
    def chosen(self) -> dict[str, str]:
        """Field -> column, of those that were chosen."""
        return {part: column for part in FIELD_NAMES if (column := getattr(self, part)) is not None}

    @builtins.property
    def numbers(self) -> frozenset[str]:
        """The chosen columns, where each of them is a number from 1: of a file whose first line names no columns."""
        chosen = [*self.chosen.values(), *self.ignore]
        return frozenset(chosen if all(re.fullmatch(r"[1-9]\d{0,5}", column) for column in chosen) else ())

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Columns:
        """From texts like "name=Company,value=City, State": a comma divides only where a field and "=" follow.

        Raises:
            TripleFormatError: a text is of another form, or a field is chosen twice.
        """
        fields = (*FIELD_NAMES, IGNORE)
        chosen: dict[str, str] = {}
        ignored: list[str] = []
        for text in texts:
            for part in re.split(rf",(?=\s*(?:{'|'.join(fields)})\s*=)", text):
                name, equals, column = (piece.strip() for piece in part.partition("="))
                if name not in fields or not equals or not column:
                    raise TripleFormatError(
                        f"{part.strip()!r} is no choice of a column; write FIELD=COLUMN, with commas between, where "
                        f"FIELD is one of {', '.join(fields)}"
                    )
                if name == IGNORE:
                    ignored.append(column)
                elif chosen.setdefault(name, column) != column:
                    raise TripleFormatError(f"{name} is chosen twice: {chosen[name]!r} and {column!r}; choose one")
        return cls(**chosen, ignore=tuple(ignored))


@dataclass(frozen=True, slots=True)
class Plan:
    """How records with the same keys are read.

    Attributes:
        fields: the columns of each field; several only where they are names of ours, whose texts must agree.
        properties: the columns that are properties, in a wide record; none in a long one.
        guesses: (column, field) where a column has none of our names and was not chosen.
        unread: columns that are no part of a triple.
    """

    fields: Mapping[str, tuple[str, ...]]
    properties: tuple[str, ...] = ()
    guesses: tuple[tuple[str, str], ...] = ()
    unread: tuple[str, ...] = ()


def plan_of(keys: Sequence[str], columns: Columns | None = None, *, has_name: bool = False) -> Plan:
    """How records with these keys are read.

    Args:
        columns: the user's choice.
        has_name: the name is known from elsewhere, such as the key that the record stands under.

    Raises:
        TripleFormatError: a column for the name or the value is missing, or there are two; the message says what to
            choose.
    """
    columns = columns or Columns()
    chosen = _chosen(keys, columns)
    folded = {key: fold_column(key) for key in keys}
    ignored = {find_column(column, keys) for column in columns.ignore}
    free = [key for key in keys if key.strip() and key not in ignored and key not in chosen.values()]

    def candidates(field: str, known: frozenset[str]) -> tuple[str, ...]:
        if field in chosen:
            return (chosen[field],)
        return tuple(key for key in free if folded[key] in known)

    further = {field: found for field in _FURTHER if (found := candidates(field, _OURS[field]))}
    parts = ("property", "value") if has_name else _FACT
    ours = {field: candidates(field, _OURS[field]) for field in parts}
    if all(ours.values()):
        return _long(keys, {**ours, **further}, chosen, ignored)
    families = [
        {field: candidates(field, known) for field, known in zip(_FACT, family, strict=True) if field in parts}
        for family in _FAMILIES
    ]
    if whole := [family for family in families if all(family.values())]:
        return _long(keys, {**_only(keys, whole), **further}, chosen, ignored)
    if not ours["value"] and not has_name and "name" not in chosen:
        _refuse_part_of_a_fact(keys, [folded[key] for key in free])
    name = () if has_name else ours["name"] or _title(keys, free)
    taken = {*name, *ours["value"], *ours["property"], *(key for found in further.values() for key in found)}
    others = [key for key in free if key not in taken]
    # A description is a value of its own, or one property of several; an example question goes with one fact.
    if ours["value"]:
        is_wide = "value" not in chosen and not further and all(folded[key] == "description" for key in ours["value"])
    else:
        is_wide = not chosen.keys() & {*_FURTHER}
    is_wide = is_wide and bool(others) and not ours["property"]
    if not is_wide:
        if not ours["value"]:
            raise missing("value", keys)
        read = {field: found for field, found in {**ours, "name": name}.items() if found}
        return _long(keys, {**read, **further}, chosen, ignored)
    guesses = tuple((key, "name") for key in name if folded[key] not in _OURS["name"] and key not in chosen.values())
    of_facts = {key for found in further.values() for key in found}
    wide = {*others, *ours["value"], *of_facts}
    properties = tuple(key for key in keys if key in wide)
    return Plan({"name": name} if name else {}, properties, guesses, tuple(key for key in keys if not key.strip()))


def find_column(column: str, keys: Sequence[str]) -> str | None:
    """The key that a user means: the same, or the only one that differs by case, spaces or underscores alone."""
    if column in keys:
        return column
    alike = [key for key in keys if fold_column(key) == fold_column(column)]
    return alike[0] if len(alike) == 1 else None


class MissingFieldError(TripleFormatError):
    """No column is known to hold a field that every triple needs."""


def missing(field: str, keys: Sequence[str]) -> MissingFieldError:
    """The error for records with these keys, in which this field is not found."""
    options = " or ".join(f'"{name}"' for name in FIELD_NAMES[field])
    return MissingFieldError(
        f"missing field {options}; the fields present: {quoted(keys)}; if one of them is the {field}, choose it: "
        f"{choice({field: 'COLUMN'})}"
    )


def below_a_title(header: Sequence[str]) -> str:
    """The end of a message about a header with one cell, which is more often a title above the table."""
    if sum(1 for name in header if name.strip()) != 1:
        return ""
    return "; where the names of the columns stand further down, remove what is above them"


def quoted(names: Sequence[str], between: str = ", ") -> str:
    """Names out of a file as a message lists them: the first few, none of them long."""
    shown = between.join(f'"{name[:40]}"' for name in names[:_SHOWN]) or "none"
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN:,} more"


def choice(fields: Mapping[str, str]) -> str:
    """How these columns are chosen, for messages."""
    python = ", ".join(
        f"{field}={(column,)!r}" if field == IGNORE else f"{field}={column!r}" for field, column in fields.items()
    )
    flag = ",".join(f"{field}={column}" for field, column in fields.items())
    return argument(f"columns=Columns({python})", f"--map {shlex.quote(flag)}", MAPPING)


def _chosen(keys: Sequence[str], columns: Columns) -> dict[str, str]:
    """Field -> key, of the user's choices that are there."""
    chosen = {}
    for field, column in columns.chosen.items():
        found = find_column(column, keys)
        if found is not None:
            chosen[field] = found
        elif field in _FACT:
            raise TripleFormatError(f"there is no column {column!r} for the {field}; the columns: {quoted(keys)}")
    return chosen


def _long(
    keys: Sequence[str], fields: Mapping[str, tuple[str, ...]], chosen: Mapping[str, str], ignored: set[str | None]
) -> Plan:
    read = {key for columns in fields.values() for key in columns}
    guesses = tuple(
        (key, field)
        for field, columns in fields.items()
        for key in columns
        if key not in chosen.values() and fold_column(key) not in _OURS[field]
    )
    return Plan(fields, (), guesses, tuple(key for key in keys if key not in read and key not in ignored))


def _only(keys: Sequence[str], families: Sequence[Mapping[str, tuple[str, ...]]]) -> Mapping[str, tuple[str, ...]]:
    """The one way to fill name, property and value."""
    ways: dict[str, list[str]] = {}
    for family in families:
        for field, columns in family.items():
            ways.setdefault(field, []).extend(columns)
    for field, found in ways.items():
        if len(set(found)) > 1:
            _ambiguous(field, found, {each: could[0] for each, could in ways.items()})
    return families[0]


def _refuse_part_of_a_fact(keys: Sequence[str], folded: Sequence[str]) -> None:
    """A subject and a predicate without an object are no entity with the property "predicate"."""
    for family in _FAMILIES:
        lacking = [field for field, known in zip(_FACT, family, strict=True) if not known.intersection(folded)]
        if len(lacking) == 1 and all(any(key in known for known in family) for key in folded):
            raise missing(lacking[0], keys)


def _title(keys: Sequence[str], free: Sequence[str]) -> tuple[str, ...]:
    """The one column that names the entities of a wide table."""
    found = [
        key
        for key in free
        if fold_column(key) in _TITLES or (fold_column(key).endswith("name") and fold_column(key) != "name")
    ]
    if not found:
        raise missing("name", keys)
    if len(found) > 1:
        _ambiguous("name", found, {"name": found[0]})
    return (found[0],)


def _ambiguous(field: str, columns: Sequence[str], example: Mapping[str, str]) -> NoReturn:
    could = list(dict.fromkeys(columns))
    raise TripleFormatError(f"{quoted(could, ' and ')} could each be the {field}; choose, such as {choice(example)}")
