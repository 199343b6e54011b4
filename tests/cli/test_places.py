"""Places where nothing can be made: each command that writes says so in one line, before it has done anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import kblam
from tests.fakes import HashingEncoder

ANYWHERE = "http://127.0.0.1:1/v1"
# {out} is the place; the others are the fixtures.
COMMANDS = (
    "kb build {facts} -o {out}.kb",
    "kb export {kb} -o {out}.jsonl",
    "data import {facts} -o {out}.kb",
    "data import {facts} -o {out}.jsonl",
    "data import {facts} -o x.jsonl --skip-bad {out}.txt",
    "data export {kb} -o {out}.ttl",
    "data export {kb} -o {out}.jsonl",
    "data questions {kb} -o {out}.jsonl",
    "data extract {text} -o {out}.jsonl --base-url {anywhere} --model m",
    "data extract {text} -o {out}.kb --base-url {anywhere} --model m",
    "data synthesise -o {out}.jsonl --base-url {anywhere} --model m",
    "data elements -o {out}.jsonl",
    "convert {base} {facts} -o {out}",
    "integrate {base} {adapter} {kb} -o {out}",
    "train -o {out}",
    "calibrate --model {base} --adapter {adapter} -o {out}",
    "eval --kb {kb} --model {base} --adapter {adapter} --json {out}.json",
    "eval --kb {kb} --model {base} --adapter {adapter} --markdown {out}.md",
    "bench --quick --json {out}.json",
    "bench --quick --profile {out}.json",
)


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize("place", ["/proc/x", "/proc/x/y", "a file/x"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_where_nothing_can_be_made_is_told_in_one_line(
    command: str,
    place: str,
    kb: Path,
    base: Path,
    adapter: Path,
    facts_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hashing: HashingEncoder,
) -> None:
    if place.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("there is no /proc")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").touch()
    (tmp_path / "text.md").write_text("Oak is a tree.")
    before = sorted(tmp_path.rglob("*"))
    places = {"kb": kb, "base": base, "adapter": adapter, "facts": facts_file, "text": "text.md", "anywhere": ANYWHERE}
    done = kblam(*(part.format(out=place, **places) for part in command.split()))
    done.failed(done.status, "proc" if place.startswith("/proc") else "a file")
    assert done.status in (1, 2)
    assert sorted(tmp_path.rglob("*")) == before
