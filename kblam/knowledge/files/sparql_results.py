"""Results of a SPARQL query as JSON (application/sparql-results+json): each solution as a record.

https://www.w3.org/TR/sparql11-results-json/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kblam.errors import TripleFormatError
from kblam.knowledge.columns import choice, quoted
from kblam.knowledge.fields import kind_of, shortened
from kblam.knowledge.records import RecordReader
from kblam.knowledge.triples import FIELDS

# Variables that are name, property and value, in whatever place; any other three are taken so in their order.
_TRIPLES = (("s", "p", "o"), ("subject", "predicate", "object"), FIELDS[:3])
_LABEL = "Label"  # of Wikidata: ?itemLabel is the text of ?item


def fields_of(head: object, reader: RecordReader) -> dict[str, str]:
    """Variable -> field of a record. Where the user chose columns, the variables are the columns.

    Args:
        reader: has the user's choice, and is told what is guessed.

    Raises:
        TripleFormatError: the query did not select a triple.
    """
    names = head.get("vars") if isinstance(head, Mapping) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TripleFormatError('results of a SPARQL query need {"head": {"vars": [...]}}')
    if reader.columns.chosen or reader.columns.ignore:
        return {name: name for name in names}
    fields = _triple_of(names)
    for variable, field in fields.items():
        reader.guess(variable, field)
    return fields


def _triple_of(names: Sequence[str]) -> dict[str, str]:
    lowered = [name.lower() for name in names]
    for triple in _TRIPLES:
        if set(triple) <= set(lowered):
            return {names[lowered.index(one)]: field for one, field in zip(triple, FIELDS, strict=False)}
    if len(names) != 3:
        example = choice({"name": "VARIABLE", "property": "VARIABLE", "value": "VARIABLE"})
        raise TripleFormatError(
            f"results of a SPARQL query with {len(names)} variables, {quoted(names)}: a fact is three; "
            f"SELECT ?s ?p ?o, or choose: {example}"
        )
    if labelled := [name for name in names if name + _LABEL in names]:
        label = labelled[0] + _LABEL
        raise TripleFormatError(
            f"results of a SPARQL query with the variables {quoted(names)}: {label[:40]!r} is the text of "
            f"{labelled[0][:40]!r}, so they are no name, property and value; choose, such as "
            f"{choice({'name': label, 'ignore': labelled[0]})}"
        )
    return dict(zip(names, FIELDS, strict=False))


def record_of(solution: object, fields: Mapping[str, str], reader: RecordReader) -> dict[str, object]:
    """A solution with the text of each term; a variable that is not bound is left out.

    Args:
        fields: of `fields_of`. A variable that is no field is noted as one that was not read.

    Raises:
        TripleFormatError: it is none.
    """
    if not isinstance(solution, Mapping):
        raise TripleFormatError(f"expected a solution of the query, got {kind_of(solution)}: {shortened(solution)}")
    found: dict[str, object] = {}
    for variable, term in solution.items():
        text = term.get("value") if isinstance(term, Mapping) else None
        if not isinstance(text, str):
            raise TripleFormatError(f'the term of ?{variable[:40]} needs {{"value": TEXT}}; got {shortened(term)}')
        if variable in fields:
            found[fields[variable]] = text
        else:
            reader.leave(variable)
    return found


def is_results(names: Sequence[str]) -> bool:
    """Whether an object with these members may be results of a query."""
    return {"head", "results"} <= set(names)
