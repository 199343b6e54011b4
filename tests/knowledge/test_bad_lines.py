"""Records that cannot be read: told at once, all of them, or left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kblam.errors import BadLinesError
from kblam.knowledge import TripleFile
from kblam.knowledge.files import json_document
from tests.knowledge.test_files import put
from tests.knowledge.test_layouts import facts

_START, _END = b'{"name":"A","value":"1"}', b'{"name":"A","value":"2"}\n{"name":"C","value":"3"}\n'
_LINES = _START + b'\n{"name"\n{"name":"B"}\n{"name":"\xff"}\n' + _END
_ELEMENTS = b'{"name":"X","value":1,"value":2},\n{"name":"B"},\n["x"],\n' + _END.strip().replace(b"\n", b",\n")
BAD = {
    "a.jsonl": _LINES,
    "lines.json": _LINES,
    "a.json": b"[" + _START + b",\n" + _ELEMENTS + b"]",
    "a.csv": b'name,value\nA,1\n"X"y,2\nB,\nC\xff,3\nA,2\nC,3\n',
}


@pytest.mark.parametrize("name", BAD)
def test_all_bad_lines_are_told_at_once_or_left_out(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = put(tmp_path, name, BAD[name])
    first = 3 if name.endswith("csv") else 2
    with pytest.raises(BadLinesError) as caught:
        TripleFile(path)
    error = caught.value
    assert (error.count, error.line, len(error.details)) == (4, first, 4)
    assert str(error).startswith(
        f"{path}: 4 records cannot be read (skip_bad=True goes on without them); line {first}:"
    )
    for at, detail in enumerate(error.details):
        assert detail.startswith(f"line {first + at}: ")
    file = TripleFile(path, skip_bad=True)
    assert facts(file) == [("A", "description", "1"), ("C", "description", "3")]
    assert file.skipped == 4
    assert f"4 records that cannot be read were left out:\n  line {first}: " in caplog.text
    assert [triple.name for triple in TripleFile(path, skip_bad=True, duplicates="last")] == ["A", "C"]


def test_a_thousand_bad_lines_of_one_kind_are_one_text(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", "name,value\nA,1\n" + "B,\n" * 1000)
    with pytest.raises(BadLinesError) as caught:
        TripleFile(path)
    assert caught.value.count == 1000
    (detail,) = caught.value.details
    assert detail.startswith("lines 3, 4, 5, 6, 7, 8, 9, 10 and 992 more: missing field")
    many = "".join(f'{{"name": "N{at}", "value": [[{at}]]}}\n' for at in range(1000))
    with pytest.raises(BadLinesError) as caught:
        TripleFile(put(tmp_path, "a.jsonl", many))
    assert len(caught.value.details) == 11
    assert caught.value.details[-1] == "and 990 more with other troubles"


def test_a_file_with_too_many_bad_lines_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam.knowledge.files.trouble.MOST", 50)
    path = put(tmp_path, "a.json", json.dumps([*range(100), {"name": "A", "value": "1"}]))
    with pytest.raises(BadLinesError, match="at least 50 records cannot be read"):
        TripleFile(path)
    assert TripleFile(path, skip_bad=True).skipped == 100


def test_what_lies_beside_the_triples_is_stepped_over_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    value = json_document._JsonText.value
    monkeypatch.setattr(json_document._JsonText, "value", lambda text: (steps.append(text.at), value(text))[1])
    content = '{"ids": [' + "1," * 20_000 + '1], "triples": [{"name": "A", "value": "1"}]}'
    assert len(TripleFile(put(tmp_path, "a.json", content))) == 1
    assert len(steps) < 20


def test_a_file_of_which_nothing_can_be_read_is_refused_though_bad_lines_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(BadLinesError, match="2 records cannot be read"):
        TripleFile(put(tmp_path, "a.jsonl", "{\n[\n"), skip_bad=True)


def test_the_end_of_what_can_be_read_is_told_with_what_was_bad_before(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", 'name,value\nA,1\nB,\nC,"\nD,4\n')
    for skip_bad in (False, True):
        with pytest.raises(BadLinesError) as caught:
            TripleFile(path, skip_bad=skip_bad)
        assert caught.value.details[0].startswith("line 3: missing field")
        assert caught.value.details[1].endswith("nothing after this can be read")
