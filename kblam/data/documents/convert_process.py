"""Reads documents, each in a child of its own: what a process beside ours runs.

A line of stdin is a job as JSON, and a line of stdout what came of it: {"pages": [...]}, {"error": ...},
{"missing": PACKAGE} or, of a child that died, {"died": STATUS}. What takes seconds is to import the readers; a child
finds them imported, and what a document does to it the next one never sees. Where processes have no children that
begin as they are (Windows), one job is done and the process ends.

It is run as a file and imports nothing of kblam, so that a hostile document meets nothing but its reader.
"""

from __future__ import annotations

import datetime
import io
import json
import math
import os
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

try:
    import resource
except ImportError:  # not on Windows, where only the caller's deadline holds
    resource = None  # type: ignore[assignment]

_SLIDE = re.compile(r"^<!-- Slide number: \d+ -->$", re.MULTILINE)
# What docling puts in the place of a picture or a formula.
_PLACE = re.compile(r"^<!-- [a-z][a-z -]{0,60}-->$", re.MULTILINE)


def main() -> None:
    """Does the jobs on stdin."""
    out, sys.stdout = sys.stdout, io.StringIO()  # what libraries print
    for line in sys.stdin:
        job = json.loads(line)
        sys.path[:] = job["path"]
        if not hasattr(os, "fork"):
            out.write(json.dumps(_result(job)) + "\n")
            return
        out.write(_of_child(job) + "\n")
        out.flush()


def _of_child(job: dict[str, Any]) -> str:
    try:
        _import(job)
    except ModuleNotFoundError as error:
        return json.dumps(_missing(error))
    except Exception:  # the child says what it is
        pass
    theirs, ours = os.pipe()
    child = os.fork()
    if not child:
        _answer(job, ours)
    os.close(ours)
    with os.fdopen(theirs) as file:
        told = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return told if not status else json.dumps({"died": status})


def _answer(job: dict[str, Any], ours: int) -> NoReturn:
    """What a child does; it has neither the jobs nor the answers of the others."""
    status = 1
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        with os.fdopen(ours, "w") as file:
            json.dump(_result(job), file)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _import(job: dict[str, Any]) -> None:
    """What a reader needs, before its children begin. docling computes in threads, which no child would have."""
    if job["reader"] != "markitdown":
        return
    if job["kind"] == ".pdf":
        import pdfminer.high_level  # noqa: F401
    elif job["kind"] == ".xlsx":
        import openpyxl  # noqa: F401
        import pandas  # noqa: F401
    else:
        import markitdown.converters  # noqa: F401


def _result(job: dict[str, Any]) -> dict[str, Any]:
    try:
        pages = [_clean(page) for page in _READERS[job["reader"]](job)]
    except ModuleNotFoundError as error:
        return _missing(error)
    except MemoryError:
        return {"error": f"it needs more than {job['memory'] // 2**20:,} MiB of memory"}
    except RecursionError:
        return {"error": "it is nested too deeply"}
    except Exception as error:  # libraries raise what they like
        return {"error": (str(error).strip().splitlines() or [""])[0][:300] or type(error).__name__}
    length = sum(map(len, pages))
    if length > job["most"]:
        return {"error": f"it has {length:,} characters of text; {job['most']:,} is the most"}
    return {"pages": pages}


def _missing(error: ModuleNotFoundError) -> dict[str, Any]:
    return {"missing": (error.name or "").partition(".")[0]}


def _by_markitdown(job: dict[str, Any]) -> list[str]:
    kind = job["kind"]
    if kind == ".pdf":
        return _pages_of_pdf(job)
    if kind == ".xlsx":
        return _sheets(job)
    from markitdown import StreamInfo
    from markitdown.converters import DocxConverter, HtmlConverter, PptxConverter

    # Not `MarkItDown`, which guesses by contents what a file is, with a model of its own.
    converters = {".docx": DocxConverter, ".pptx": PptxConverter}
    converter = converters.get(kind, HtmlConverter)()
    _limit(job)
    with Path(job["file"]).open("rb") as stream:
        # `extension` is how a converter knows that its packages are there.
        text = converter.convert(stream, StreamInfo(extension=kind, charset=None)).markdown
    if kind == ".pptx":
        return _SLIDE.split(text)[1:] or [text]
    return [text]


def _sheets(job: dict[str, Any]) -> list[str]:
    """A table for each sheet, as markitdown has it, but with its cells as they are.

    In markitdown's an empty cell is the text NaN, as are the texts NA and None; numbers have six digits behind the
    point, where a column has a gap 20 is 20.000000, and columns without a name, or with the same, get one.
    """
    from pandas import read_excel

    how = {"sheet_name": None, "header": None, "na_filter": False, "dtype": object, "engine": "openpyxl"}
    _limit(job)
    try:
        found = read_excel(job["file"], **how)
    except TypeError as error:
        if "showZeroes" not in str(error):
            raise
        # Of a word that some programs misspell, which markitdown repairs.
        from markitdown.converters._xlsx_converter import _repair_sheetview_show_zeroes

        with Path(job["file"]).open("rb") as stream:
            found = read_excel(_repair_sheetview_show_zeroes(stream, 0), **how)
    pages = []
    for name, frame in found.items():
        rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
        rows = [row for row in rows if any(row)]
        used = [at for at in range(len(rows[0]) if rows else 0) if any(row[at] for row in rows)]
        lines = [f"| {' | '.join(row[at] for at in used)} |" for row in rows]
        if lines:
            lines.insert(1, f"|{' --- |' * len(used)}")
        pages.append("\n".join([f"## {name}", *lines]))
    return pages


def _cell(value: object) -> str:
    """A cell in a line; "" of an empty one, and of an error of a formula."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, datetime.datetime) and value.time() == datetime.time.min:
        value = value.date()
    return " ".join(str(value).split())


def _pages_of_pdf(job: dict[str, Any]) -> list[str]:
    """By pdfminer, which markitdown reads PDF with too: its Markdown does not say where pages end."""
    from pdfminer.high_level import extract_pages
    from pdfminer.layout import LAParams, LTTextContainer
    from pdfminer.pdfdocument import PDFPasswordIncorrect
    from pdfminer.pdfparser import PDFSyntaxError

    _limit(job)
    try:
        return [
            "\n".join(box.get_text() for box in page if isinstance(box, LTTextContainer))
            for page in extract_pages(job["file"], laparams=LAParams())
        ]
    except PDFPasswordIncorrect:
        raise ValueError("it is encrypted; save it without a password") from None
    except PDFSyntaxError as error:
        raise ValueError(f"it is damaged: {error}") from None


def _by_docling(job: dict[str, Any]) -> list[str]:
    from docling.document_converter import DocumentConverter

    _limit(job)
    document = DocumentConverter().convert(job["file"]).document
    mark = "\f"
    text: str = _PLACE.sub("", document.export_to_markdown(page_break_placeholder=mark))
    return text.split(mark) if job["kind"] in (".pdf", ".pptx", ".xlsx") else [text.replace(mark, "")]


_READERS = {"markitdown": _by_markitdown, "docling": _by_docling}


def _clean(page: str) -> str:
    """Without form feeds, and with line breaks of one kind."""
    return page.replace("\r\n", "\n").replace("\r", "\n").replace("\f", " ").strip("\n")


def _limit(job: dict[str, Any]) -> None:
    """Limits what is still to come, not what importing took."""
    if resource is None:
        return
    used = math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + job["seconds"], used + job["seconds"] + 1))
    taken = Path("/proc/self/statm")
    if taken.exists():
        limit = int(taken.read_text().split()[0]) * resource.getpagesize() + job["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
