from __future__ import annotations

import math
import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kblam.errors import TripleFormatError
from kblam.knowledge import fields
from kblam.knowledge.fields import MAX_COMBINING_MARKS, MAX_FIELD_CHARACTERS
from kblam.knowledge.records import RecordReader, as_triples, triples_of
from kblam.knowledge.sources import Source
from kblam.knowledge.triples import Triple, identity_of
from tests.knowledge import strategies
from tests.timing import is_done_within


def test_key_text_is_the_property_of_the_name() -> None:
    assert Triple("Amber Falcon", "capital", "Zirconia").key_text == "the capital of Amber Falcon"


def test_key_string_replaces_the_key_text() -> None:
    assert Triple("a", "b", "c", key_string="what a is").key_text == "what a is"


def test_sources_that_cannot_be_are_refused() -> None:
    for source, message in (
        ({"document": " ", "quote": "q"}, "document of a source is empty"),
        ({"document": "d", "quote": 3}, "quote of a source must be text, got a number"),
        ({"document": "d", "quote": "q", "page": 0}, "page of a source must be a whole number from 1, got a number: 0"),
        ({"document": "d", "quote": "q", "offset": True}, "offset of a source must be a whole number from 0"),
        ({"document": "d", "quote": "q", "line": 3}, "a source has a field 'line'; possible are document, page"),
    ):
        with pytest.raises(TripleFormatError, match=message):
            triples_of({"name": "a", "property": "b", "value": "c", "sources": [source]})
    with pytest.raises(TripleFormatError, match="sources are not JSON"):
        triples_of({"name": "a", "property": "b", "value": "c", "sources": '[{"document"'})
    with pytest.raises(TripleFormatError, match="must be Source objects"):
        Triple("a", "b", "c", sources=({"document": "d", "quote": "q"},))  # type: ignore[arg-type]
    with pytest.raises(TripleFormatError, match="1,001 sources of one triple"):
        Triple("a", "b", "c", sources=tuple(Source(f"d{one}", "q") for one in range(1001)))


def test_a_field_called_sources_of_another_kind_is_no_part_of_a_triple(caplog: pytest.LogCaptureFixture) -> None:
    reader = RecordReader()
    assert reader.read({"name": "a", "property": "b", "value": "c", "sources": ["x.org"]}) == [Triple("a", "b", "c")]
    reader.tell("here")
    assert "not read: 'sources' (once)" in caplog.text


def test_spellings_that_look_alike_are_one_identity() -> None:
    composed, decomposed = "Am\u00e9lie", "Ame\u0301lie"
    assert Triple(f" {decomposed}\t", "Stadt", "x").identity == (composed, "Stadt")
    assert identity_of(f"{decomposed}\n", " Stadt") == (composed, "Stadt")


def test_what_shows_nothing_at_the_ends_is_no_part_of_a_name() -> None:
    """As a file that was pasted together holds: marks of byte order, zero-width spaces, soft hyphens."""
    plain = Triple("Amber Falcon", "color", "red")
    assert Triple("\ufeffAmber Falcon\u200b", " \u2060color\xad \u200b", "\u200b \u3000red") == plain
    kept = Triple("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645\u200c", "\u200f\u05d0", "\u200e1")
    assert [len(text) for text in (kept.name, kept.property, kept.value)] == [9, 2, 2], "they mean something"


@pytest.mark.parametrize("text", ["\u200c", "\u200e\u200f", "\u200d \u200d", "\x07"])
@pytest.mark.parametrize("field", ["name", "property", "value"])
def test_a_text_that_cannot_be_seen_is_refused(field: str, text: str) -> None:
    with pytest.raises(TripleFormatError, match=rf"{field} has no character that can be seen: '\\"):
        Triple(**{"name": "n", "property": "p", "value": "v", field: text})


@settings(max_examples=500)
@given(st.text(st.sampled_from(" \t\0a~\x7fe\u0301\u00e9\u00a0\u200b"), max_size=4), st.booleans())
def test_the_short_way_of_plain_text_changes_no_text(text: str, compose: bool) -> None:
    def cleaned() -> str:
        try:
            return fields.clean("name", text, compose=compose)
        except TripleFormatError as error:
            return f"{error}"

    short = cleaned()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fields, "_is_plain", lambda text: False)
        assert cleaned() == short


def test_what_a_triple_holds_are_texts_of_python() -> None:
    triple = Triple(*map(np.str_, ("Amber Falcon", "color", "red")))
    assert {type(text) for text in (triple.name, triple.property, triple.value)} == {str}


def test_a_long_run_at_the_ends_takes_no_time() -> None:
    assert Triple("n", "p", " \u200b" * 49_000 + "v").value == "v"
    assert is_done_within(0.2, lambda: Triple("n", "p", " \u200b" * 49_000 + "v"))


def test_a_triple_cannot_be_changed() -> None:
    triple = Triple("a", "b", "c")
    with pytest.raises(FrozenInstanceError):
        triple.value = "d"  # type: ignore[misc]


UPSTREAM = {
    "name": "Nebula Forge",
    "description_type": "objectives",
    "description": "to bend light",
    "Q": "What are the objectives of Nebula Forge?",
    "A": "The objectives of Nebula Forge is to bend light.",
    "key_string": "the objectives of Nebula Forge",
    "extended_Q": "ignored",
}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(
            UPSTREAM,
            Triple("Nebula Forge", "objectives", "to bend light", UPSTREAM["key_string"], UPSTREAM["Q"], UPSTREAM["A"]),
            id="upstream",
        ),
        pytest.param({"entity": "E", "description": "d"}, Triple("E", "description", "d"), id="short"),
        pytest.param({"entity": "E", "property": "p", "value": "v"}, Triple("E", "p", "v"), id="own-names"),
        pytest.param({"name": "名", "value": "値", "Q": None}, Triple("名", "description", "値"), id="null-optional"),
        pytest.param({"name": "n", "value": "v", "Q": " "}, Triple("n", "description", "v"), id="blank-optional"),
        pytest.param(
            {"name": "n", "entity": "n", "value": "v"}, Triple("n", "description", "v"), id="two-names-that-agree"
        ),
    ],
)
def test_records_in_every_form(record: dict[str, str], expected: Triple) -> None:
    assert Triple.from_record(record) == expected
    assert list(as_triples([record], "here")) == [expected]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        pytest.param({"description": "d"}, 'missing field "name" or "entity"', id="no-name"),
        pytest.param({"entity": "e"}, 'missing field "value" or "description"', id="no-value"),
        pytest.param({"entity": " ", "description": "d"}, 'missing field "name" or "entity"', id="blank-name"),
        pytest.param({"entity": "e", "Q": True, "value": "v"}, '"Q" must be text, got a boolean: True', id="question"),
        pytest.param({"entity": "e", "value": math.nan}, '"value" must be text, got a number: nan', id="nan"),
        pytest.param({"entity": ["e"], "description": "d"}, '"entity" must be text, got a list', id="list"),
        pytest.param({"entity": True, "description": "d"}, "got a boolean", id="boolean"),
        pytest.param("text", "expected an object with fields, got str", id="not-an-object"),
        pytest.param(None, "got null", id="null"),
        pytest.param({"entity": "e", "value": "v", "description": "d"}, '"value" and "description"', id="two-values"),
        pytest.param({"entity": "e", "value": "a\0b"}, "value holds a NUL", id="nul"),
        pytest.param({"entity": "\ud800", "value": "v"}, "half of a surrogate pair", id="surrogate"),
        pytest.param(
            {"entity": "e", "value": "x" * (MAX_FIELD_CHARACTERS + 1)}, "more than 100,000: 'xxx", id="too-long"
        ),
    ],
)
def test_bad_records_name_the_field_and_the_value(record: object, message: str) -> None:
    with pytest.raises(TripleFormatError) as caught:
        Triple.from_record(record)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("field", ["name", "property", "value", "key_string"])
def test_the_constructor_refuses_empty_text(field: str) -> None:
    fields = {"name": "n", "property": "p", "value": "v", field: "  "}
    with pytest.raises(TripleFormatError, match=f"{field} is empty"):
        Triple(**fields)


@given(strategies.triples)
@settings(deadline=None)  # a busy machine is no failure
def test_records_round_trip(triple: Triple) -> None:
    assert Triple.from_record(triple.to_record()) == triple
    assert pickle.loads(pickle.dumps(triple)) == triple


def test_a_record_of_several_facts_is_read_as_all_of_them_or_refused() -> None:
    raw = {"name": "Oak", "description": "a tree", "objectives": "to grow", "purpose": None}
    assert triples_of(raw) == [Triple("Oak", "description", "a tree"), Triple("Oak", "objectives", "to grow")]
    with pytest.raises(TripleFormatError, match=r"'Oak' holds 2 facts \(description, objectives\)"):
        Triple.from_record(raw)
    assert triples_of({"name": "Oak", "purpose": "shade"}) == [Triple("Oak", "purpose", "shade")]
    reader = RecordReader()
    reader.read(raw)
    assert not reader.unread
    # With a property of its own a record is one fact.
    one = {**raw, "description_type": "kind"}
    assert triples_of(one) == [Triple("Oak", "kind", "a tree")]
    reader.read(one)
    assert reader.unread == {"objectives": 1}
    with pytest.raises(TripleFormatError, match='missing field "name"'):
        triples_of({"purpose": "shade"})
    assert triples_of({"name": "Oak", "purpose": 3}) == [Triple("Oak", "purpose", "3")]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("field", ["name", "property", "value", "question"])
def test_marks_that_take_minutes_to_sort_are_refused(field: str) -> None:
    fields = {"name": "n", "property": "p", "value": "v", field: "a" + "\u0315\u0300\u0323" * 30_000}
    with pytest.raises(TripleFormatError, match=f"{field} has more than 256 combining marks"):
        Triple(**fields)
    Triple(**{**fields, field: "a" + "\u0315" * MAX_COMBINING_MARKS})
