"""The Python in README and docs runs: what a reader copies must work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A block runs unless it is marked `python skip` (needs a hub, a GPU or a key). On the README each runs alone, after its
# one block marked `setup` if it is marked `after setup`; the blocks of another page share a namespace.
BLOCK = re.compile(r"^```python( skip| setup| after setup)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
README = ROOT / "README.md"
FOLDERS = ("docs", "csrc", "kblam", "kblam_kernels", "benchmarks", "experiments")
# Once each: kblam/docs is a link.
MARKDOWN = {path.resolve() for path in [*ROOT.glob("*.md"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.md"))]}
# What divides cells, and code, in which it does not.
CELL, CODE = re.compile(r"(?<!\\)\|"), re.compile(r"`[^`]*`")
PAGES = [path for path in sorted((ROOT / "docs").glob("*.md")) if BLOCK.search(path.read_text())]
ALONE = [(mark.strip(), code) for mark, code in BLOCK.findall(README.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for mark, code in BLOCK.findall(page.read_text()):
        assert mark in ("", " skip"), "only the README has a set-up"
        if not mark:
            exec(compile(code, str(page), "exec"), namespace)


@pytest.mark.parametrize("number", [at for at, (mark, _) in enumerate(ALONE) if mark != "skip"])
def test_each_example_of_the_readme_runs_alone(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (mark, code), namespace = ALONE[number], dict[str, object]()
    if mark == "after setup":
        (setup,) = [other for kind, other in ALONE[:number] if kind == "setup"]
        exec(compile(setup, "the set-up of README.md", "exec"), namespace)
    exec(compile(code, f"block {number} of README.md", "exec"), namespace)
    shown = capsys.readouterr().out
    # What a comment behind a print says is what is printed.
    for said in re.findall(r"^print\(.*\)  # (The |\.\.\. |True)(.*)$", code, re.MULTILINE):
        assert "".join(said).removeprefix("... ") in shown


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"docs/{page.name}" not in readme]
    assert missing == []


@pytest.mark.parametrize("page", sorted(MARKDOWN), ids=lambda page: str(page.relative_to(ROOT.resolve())))
def test_every_row_of_a_table_has_the_cells_of_its_heading(page: Path) -> None:
    heading, odd = None, list[str]()
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if not line.startswith("|"):
            heading = None
            continue
        cells = len(CELL.findall(CODE.sub("", line)))
        heading = heading or cells
        if cells != heading:
            odd.append(f"{number}: {line}")
    assert odd == []
