"""Reads one document and ends: what a process of its own runs.

It reads a job as JSON from stdin and writes {"pages": [...]}, {"error": ...} or {"missing": PACKAGE} to stdout. It is
run as a file and imports nothing of kblam, so that a hostile document meets nothing but its reader.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
import time
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # not on Windows, where only the caller's deadline holds
    resource = None  # type: ignore[assignment]

_SLIDE = re.compile(r"^<!-- Slide number: \d+ -->$", re.MULTILINE)
_SHEET = re.compile(r"^(?=## )", re.MULTILINE)
# What docling puts in the place of a picture or a formula.
_PLACE = re.compile(r"^<!-- [a-z][a-z -]{0,60}-->$", re.MULTILINE)


def main() -> None:
    """Does the job on stdin."""
    job = json.load(sys.stdin)
    sys.path[:] = job["path"]
    out, sys.stdout = sys.stdout, io.StringIO()  # what libraries print
    json.dump(_result(job), out)


def _result(job: dict[str, Any]) -> dict[str, Any]:
    try:
        pages = [_clean(page) for page in _READERS[job["reader"]](job)]
    except ModuleNotFoundError as error:
        return {"missing": (error.name or "").partition(".")[0]}
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


def _by_markitdown(job: dict[str, Any]) -> list[str]:
    kind = job["kind"]
    if kind == ".pdf":
        return _pages_of_pdf(job)
    from markitdown import StreamInfo
    from markitdown.converters import DocxConverter, HtmlConverter, PptxConverter, XlsxConverter

    # Not `MarkItDown`, which guesses by contents what a file is, with a model of its own.
    converters = {".docx": DocxConverter, ".pptx": PptxConverter, ".xlsx": XlsxConverter}
    converter = converters.get(kind, HtmlConverter)()
    _limit(job)
    with Path(job["file"]).open("rb") as stream:
        # `extension` is how a converter knows that its packages are there.
        text = converter.convert(stream, StreamInfo(extension=kind, charset=None)).markdown
    if kind == ".pptx":
        return _SLIDE.split(text)[1:] or [text]
    if kind == ".xlsx":
        return [sheet for sheet in _SHEET.split(text) if sheet.strip()] or [text]
    return [text]


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
