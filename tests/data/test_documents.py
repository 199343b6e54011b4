"""Documents as text and in pieces: places stay right, structure is kept, and what cannot be read is told."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kblam.data.documents import Document, pieces_of, read_document
from kblam.data.documents.reading import PAGE_END
from kblam.data.extracting.quotes import find_quote
from kblam.errors import DocumentError

TEXT = """# Birds

## Amber Falcon

The Amber Falcon has pale green plumage. It nests in Zirconia.

```
# no heading

code
```

## Trees

| name | height |
|---|---|
| Oak | 20 m |
| Elm | 9 m |
"""


def test_a_piece_ends_between_blocks_and_knows_the_headings_above() -> None:
    document = Document("birds.md", TEXT)
    first, second, third = pieces_of(document, 70)
    assert (first.text, first.headings) == (
        "The Amber Falcon has pale green plumage. It nests in Zirconia.",
        ("Birds", "Amber Falcon"),
    )
    assert second.text == "```\n# no heading\n\ncode\n```"
    assert (third.text.splitlines()[0], third.headings) == ("| name | height |", ("Birds", "Trees"))
    assert str(third) == f"birds.md, character {TEXT.index('| name'):,}"
    (whole,) = pieces_of(document, 4000)
    assert whole.text == TEXT.strip()


def test_a_long_table_is_cut_between_rows_and_keeps_its_columns() -> None:
    rows = "".join(f"| tree {number} | {number} m |\n" for number in range(40))
    document = Document("trees.md", "| name | height |\n|---|---|\n" + rows)
    first, *others = pieces_of(document, 200)
    assert first.head == ""
    assert len(others) > 2
    for piece in others:
        assert piece.head == "| name | height |\n|---|---|"
        assert piece.text.startswith("| tree")
        assert piece.text.endswith("m |")


def test_a_piece_is_on_one_page() -> None:
    pages = ["one\n\n" * 3, "", "three"]
    starts = [0, len(pages[0]) + len(PAGE_END), len(pages[0]) + 2 * len(PAGE_END)]
    document = Document("a.pdf", PAGE_END.join(pages), tuple(starts))
    assert [(piece.page, piece.text.split()) for piece in pieces_of(document)] == [(1, ["one"] * 3), (3, ["three"])]
    assert str(list(pieces_of(document))[1]).startswith("a.pdf, page 3")


@given(st.text("ab.#|`- \n\f", max_size=300), st.integers(1, 60))
@example("# \f`", 4)
@example("# a\fb", 60)
def test_nothing_but_headings_and_white_space_is_lost(text: str, size: int) -> None:
    pieces = list(pieces_of(Document("a", text), size))
    assert all(0 < piece.end - piece.start <= size for piece in pieces)
    assert [piece.start for piece in pieces] == sorted({piece.start for piece in pieces})
    at = 0
    for start, end in [*((piece.start, piece.end) for piece in pieces), (len(text), len(text))]:
        lost = [line for line in text[at:start].replace("\f", "\n").split("\n") if line.strip()]
        assert all(line.lstrip().startswith("#") for line in lost)
        at = end


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("pale green plumage", "pale green plumage"),
        ("The  Amber\nFalcon has", "The Amber Falcon has"),
        ("It's “here” – at last", 'It’s "here" - at last'),
        ("pale blue plumage", None),
        ("the amber falcon", None),
        ("is", None),
        ("Falcon plumage", None),
    ],
)
def test_a_quote_is_found_however_it_is_typed(quote: str, found: str | None) -> None:
    text = 'The Amber Falcon has pale green plumage. It’s "here" - at last, it is.'
    place = find_quote(text, quote)
    assert (None if place is None else text[place[0] : place[1]]) == found


@pytest.mark.parametrize(
    ("text", "quote", "found"),
    [
        ("The e\ufb03cient o\ufb03ce.", "efficient office", "e\ufb03cient o\ufb03ce"),
        ("A \ufb01ne \ufb01eld.", "A fine f", "A \ufb01ne \ufb01"),
        ("The cafe\u0301 opened.", "caf\u00e9 opened", "cafe\u0301 opened"),
        ("The caf\u00e9 opened.", "cafe\u0301 opened", "caf\u00e9 opened"),
        (
            "\u1112\u1161\u11ab\u1100\u1173\u11af \uae00\uae00",
            "\ud55c\uae00 \uae00\uae00",
            "\u1112\u1161\u11ab\u1100\u1173\u11af \uae00\uae00",
        ),
        ("an infor\u00adma\u200btion desk", "information desk", "infor\u00adma\u200btion desk"),
        ("an infor-\nmation desk", "an information desk", "an infor-\nmation desk"),
        ("a well-\nknown desk", "well- known desk", "well-\nknown desk"),
        (
            "\u202b\u05de\u05d2\u05d3\u05dc\u202c \u05d2\u05d1\u05d5\u05d4",
            "\u05de\u05d2\u05d3\u05dc \u05d2\u05d1\u05d5\u05d4",
            "\u05de\u05d2\u05d3\u05dc\u202c \u05d2\u05d1\u05d5\u05d4",
        ),
        ("area of 10\u00b2 m", "area of 102 m", None),
        ("a re-\nsort", "a sort", None),
        ("abcd", "\u200b\u200b\u200b\u200b", None),
    ],
)
def test_a_quote_is_found_in_whatever_form_its_letters_are(text: str, quote: str, found: str | None) -> None:
    """PDFs have ligatures, accents as characters of their own, and words that are broken at the end of a line."""
    place = find_quote(text, quote)
    assert (None if place is None else text[place[0] : place[1]]) == found


def test_text_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo \xc3\xa9")
    document = read_document(tmp_path / "a.txt")
    assert (document.name, document.text, document.page_at(3)) == ("a.txt", "one\ntwo é", None)
    (tmp_path / "a.md").write_bytes(b"# Oak\rIt is old.\r")
    assert [piece.text for piece in pieces_of(read_document(tmp_path / "a.md"))] == ["# Oak\nIt is old."]


def bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"0" * 2**23)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.md", None, "none.md: cannot read: No such file or directory"),
        ("a.doc", b"x", "a document of the kind '.doc' cannot be read; possible are .markdown, .md"),
        ("a.md", b" \n\f\n", "a.md: no text"),
        ("a.md", b"one\ntwo \xe9\n", "a.md:2: byte 0xe9 is not UTF-8"),
        ("a.txt", b"\xff\xfea\0", "binary or UTF-16"),
        ("a.txt", b"a" * 9000 + b"\0", "binary or UTF-16"),
        ("a.html", "<p>one</p>".encode("utf-16"), "binary or UTF-16"),
        ("a.htm", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary or UTF-16"),
        (b"a\xff.md".decode("utf-8", "surrogateescape"), b"x", "its name is not UTF-8"),
        ("a.md", b"x" * 2**21, "2 MiB are more than 1; split it, or raise most_bytes"),
        ("a.docx", b"PK no archive", "a.docx: damaged, or no document of its kind"),
        ("a.xlsx", "bomb", r"bytes that unpack to 8,388,608 in 1 parts: a zip bomb; it was not unpacked"),
    ],
)
def test_a_document_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: object, message: str) -> None:
    path = tmp_path / name
    if content == "bomb":
        bomb(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(DocumentError, match=message) as caught:
        read_document(path, most_bytes=2**20)
    assert str(caught.value).startswith(str(path))


def test_a_folder_is_no_document(tmp_path: Path) -> None:
    (tmp_path / "a.md").mkdir()
    with pytest.raises(DocumentError, match="is not a file; give documents, not folders"):
        read_document(tmp_path / "a.md")


@pytest.mark.timeout(20)
def test_a_heading_of_many_blanks_takes_no_time() -> None:
    document = Document("a.md", "# A" + " " * 50_000 + "B ##\n\n" + "text\n\n" * 3)
    assert [piece.headings for piece in pieces_of(document, 40)][-1] == ("A" + " " * 50_000 + "B",)
