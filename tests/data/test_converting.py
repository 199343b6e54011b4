"""Documents that are no text, through markitdown: pages, slides and sheets, and files made to hurt."""

from __future__ import annotations

import datetime
import importlib.util
import zipfile
from pathlib import Path

import pytest

from kblam.data.documents import Converter, converting, read_document
from kblam.errors import DocumentError, MissingPackageError

READS = pytest.mark.skipif(
    importlib.util.find_spec("markitdown") is None, reason="markitdown is not installed; make test-documents"
)
_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_TYPES = """<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Override PartName="/word/document.xml"
ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/>
</Types>"""
_RELATIONS = """<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
Target="word/document.xml"/></Relationships>"""


def write_docx(path: Path, body: str, before: str = "") -> Path:
    document = f'<?xml version="1.0"?>{before}<w:document xmlns:w="{_WORD}"><w:body>{body}</w:body></w:document>'
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", _TYPES)
        archive.writestr("_rels/.rels", _RELATIONS)
        archive.writestr("word/document.xml", document)
    return path


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def write_pdf(path: Path, pages: list[str]) -> Path:
    """A PDF by hand: each page one line of text, or none."""
    contents = [f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else "" for text in pages]
    count = len(pages)
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{' '.join(f'{4 + 2 * at} 0 R' for at in range(count))}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for at, content in enumerate(contents):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * at} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    raw, places = "%PDF-1.4\n", []
    for number, text in enumerate(objects, start=1):
        places.append(len(raw))
        raw += f"{number} 0 obj\n{text}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    raw += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    raw += f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{raw.rindex('xref')}\n%%EOF\n"
    path.write_bytes(raw.encode("latin-1"))
    return path


@READS
def test_a_pdf_has_pages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    document = read_document(write_pdf(tmp_path / "a.pdf", ["The first page.", "", "The third one."]))
    assert [document.page_at(document.text.index(word)) for word in ("first", "third")] == [1, 3]
    assert "no text on page 2: pictures?" in caplog.text


@READS
def test_a_pdf_of_pictures_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"no text on any of its 2 pages: are they pictures\? run OCR"):
        read_document(write_pdf(tmp_path / "a.pdf", ["", ""]))


@READS
def test_office_documents_and_pages_of_the_web(tmp_path: Path) -> None:
    from openpyxl import Workbook
    from pptx import Presentation

    word = read_document(write_docx(tmp_path / "a.docx", paragraph("Quiet Harbor") + paragraph("Founded in 1911.")))
    assert (word.text, word.starts) == ("Quiet Harbor\n\nFounded in 1911.", ())
    (tmp_path / "a.html").write_text("<h1>Birds</h1><script>no</script><p>A <b>falcon</b>.</p>")
    assert read_document(tmp_path / "a.html").text == "# Birds\n\nA **falcon**."
    (tmp_path / "b.html").write_text(
        "<p>Begin with &lt;!-- here.</p><!-- no --><p>Oaks grow.</p><p>--&gt; ends it.</p>"
    )
    assert read_document(tmp_path / "b.html").text == "Begin with <!-- here.\n\nOaks grow.\n\n--> ends it."
    slides = Presentation()
    for title in ("One", "Two"):
        slides.slides.add_slide(slides.slide_layouts[5]).shapes.title.text = title
    slides.save(str(tmp_path / "a.pptx"))
    shown = read_document(tmp_path / "a.pptx")
    assert [shown.page_at(shown.text.index(title)) for title in ("One", "Two")] == [1, 2]
    book = Workbook()
    book.active.append(["name", "height"])
    book.active.append(["Oak", "20 m"])
    book.create_sheet("more").append(["Elm"])
    book.save(tmp_path / "a.xlsx")
    sheets = read_document(tmp_path / "a.xlsx")
    assert "| Oak | 20 m |" in sheets.text
    assert sheets.page_at(sheets.text.index("Elm")) == 2


@READS
def test_cells_of_a_workbook_are_as_they_are(tmp_path: Path) -> None:
    """In markitdown's Markdown what is empty is NaN, so is the text NA, and 20 beside a gap is 20.000000."""
    from openpyxl import Workbook

    book = Workbook()
    for row in (
        ["name", "height", "built", "code", None, "name", None],
        ["Oak", 20, datetime.date(1911, 2, 3), "NA", "x|y", 0.12345678, None],
        [None, None, None, None, None, None, None],
        ["Elm", None, None, "None", None, 1234567.891, None],
    ):
        book.active.append(row)
    book.create_sheet("empty")
    book.create_sheet("one").append(["Fir\nand Yew"])
    book.save(tmp_path / "a.xlsx")
    assert read_document(tmp_path / "a.xlsx").text.split("\n\f\n") == [
        "## Sheet\n| name | height | built | code |  | name |\n| --- | --- | --- | --- | --- | --- |\n"
        "| Oak | 20 | 1911-02-03 | NA | x|y | 0.12345678 |\n| Elm |  |  | None |  | 1234567.891 |",
        "## empty",
        "## one\n| Fir and Yew |\n| --- |",
    ]


@READS
def test_a_document_made_to_hurt_is_refused(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 50}">' for n in range(1, 8))
    laughs = f"<!DOCTYPE x [<!ENTITY a0 'x'>{entities}]>"
    with pytest.raises(DocumentError, match=r"a\.docx: markitdown cannot read it"):
        read_document(write_docx(tmp_path / "a.docx", paragraph("&a7;"), laughs))


@READS
@pytest.mark.parametrize("raw", [b"%PDF-1.4 no more", b"no pdf"])
def test_what_is_no_pdf_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.pdf").write_bytes(raw)
    with pytest.raises(DocumentError, match=r"a\.pdf: markitdown cannot read it: it is damaged: "):
        read_document(tmp_path / "a.pdf")


def test_a_reader_that_is_not_there_or_crashes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pdf(tmp_path / "a.pdf", ["x"])
    for name, code in (("docling", "import none_such"), ("pdfminer", "import os; os.abort()")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        MissingPackageError,
        match=r"docling reads it, and the package none_such is not installed; pip install '.*\[docling\]'",
    ):
        read_document(path, reader="docling")
    with pytest.raises(DocumentError, match="markitdown cannot read it: it crashed"):
        read_document(path)
    monkeypatch.setattr(converting, "SECONDS", 0.1)
    (tmp_path / "pdfminer" / "__init__.py").write_text("import time; time.sleep(9)")
    with pytest.raises(DocumentError, match=r"markitdown took more than 0\.2 seconds"):
        read_document(path)


def test_several_documents_share_a_process_and_not_their_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for pdfminer, which does what the file says."""
    (tmp_path / "pdfminer").mkdir()
    (tmp_path / "pdfminer" / "__init__.py").write_text("")
    (tmp_path / "pdfminer" / "high_level.py").write_text(
        "import os, sys, time\n"
        "print('imported', file=sys.stderr)\n"
        "def extract_pages(path, laparams):\n"
        "    exec(open(path).read())\n"
        "    yield [LTTextContainer()]\n"
        "class LTTextContainer:\n"
        "    def get_text(self):\n"
        "        return f'{os.getppid()} {len(sys.argv)}'\n"
    )
    for name, text in (
        ("layout", "from pdfminer.high_level import LTTextContainer\nLAParams = dict"),
        ("pdfdocument", "class PDFPasswordIncorrect(Exception): pass"),
        ("pdfparser", "class PDFSyntaxError(Exception): pass"),
    ):
        (tmp_path / "pdfminer" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))

    def read(does: str) -> str:
        (tmp_path / "a.pdf").write_text(does)
        return read_document(tmp_path / "a.pdf", converter=converter).text

    with Converter() as converter:
        first = read("sys.argv.append('hostile')\nos.write(1, b'{}')")
        process = converter._process
        assert first == f"{process.pid} 2"
        assert read("") == f"{process.pid} 1", "what one does the next does not see"
        with pytest.raises(DocumentError, match="cannot read it: it crashed"):
            read("os.abort()")
        with pytest.raises(DocumentError, match="cannot read it: last words"):
            read("os.write(2, b'last words'); os.abort()")
        with pytest.raises(DocumentError, match="cannot read it: it needs more than 4,096 MiB of memory"):
            read("bytearray(2**40)")
        assert read("") == f"{process.pid} 1"
        monkeypatch.setattr(converting, "SECONDS", 1)
        with pytest.raises(DocumentError, match="markitdown took more than 2 seconds"):
            read("time.sleep(9)")
        monkeypatch.setattr(converting, "SECONDS", 60)
        assert read("").endswith(" 1")
        last = converter._process
        assert last is not None
    assert last.poll() is not None


def test_docling_s_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in: docling itself loads models from a hub."""
    (tmp_path / "docling").mkdir()
    (tmp_path / "docling" / "__init__.py").write_text("")
    (tmp_path / "docling" / "document_converter.py").write_text(
        "class DocumentConverter:\n"
        "    def convert(self, path):\n"
        "        self.document = self\n"
        "        return self\n"
        "    def export_to_markdown(self, page_break_placeholder):\n"
        "        return 'one\\n<!-- image -->\\n' + page_break_placeholder + 'two <!-- said -->'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    document = read_document(write_pdf(tmp_path / "a.pdf", ["x"]), reader="docling")
    assert [document.page_at(document.text.index(word)) for word in ("one", "two")] == [1, 2]
    assert document.text == "one\n\f\ntwo <!-- said -->"
