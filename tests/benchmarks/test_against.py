"""A comparison with another commit: both are measured in turn, what cannot be is refused, nothing is left behind."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kblam.bench import against
from kblam.bench.report import FORMAT
from kblam.cli.app import app
from kblam.errors import BenchmarkError


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a commit too old, one that can be compared, and the one that is checked out."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    root = tmp_path / "checkout"
    root.mkdir()

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "old")
    git("tag", "old")
    file = root / against.NEEDED
    file.parent.mkdir(parents=True)
    file.write_text("1")
    git("add", "-A")
    git("commit", "-q", "-m", "before")
    git("tag", "before")
    file.write_text("2")
    git("commit", "-aqm", "now")
    monkeypatch.setattr(against, "ROOT", root)
    return root


def worktrees(root: Path) -> int:
    listed = subprocess.run(["git", "worktree", "list"], cwd=root, check=True, capture_output=True, text=True).stdout
    return len(listed.splitlines())


def test_both_run_in_turn_and_nothing_is_left(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[bool] = []
    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        if command[0] == "git":
            return real(command, **options)
        tree, file = Path(options["cwd"]), Path(command[-1])
        assert options["env"]["PYTHONPATH"] == str(tree)
        assert (tree / against.NEEDED).read_text() == ("2" if tree == checkout else "1")
        order.append(tree == checkout)
        # The machine gets slower from run to run; there it takes twice as long.
        seconds = (1 + len(order) / 10) * (1 if tree == checkout else 2)
        row = {"shape": "s", "phase": "decode", "implementation": "kblam latent", "backend": None, "dtype": "float32"}
        refused = row | {"implementation": "refused", "status": "not run"}
        content = {"format": FORMAT, "environment": {}, "models": [], "rows": [row | {"seconds": seconds}, refused]}
        file.write_text(json.dumps(content))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    told: list[tuple[int, int]] = []
    (found,) = against.compare("before", ["--quick"], 3, lambda at, of: told.append((at, of)))
    assert order == [True, False, False, True, True, False], "who is first changes, or drift would look like progress"
    assert told == [(at, 6) for at in range(1, 7)]
    assert (found.shape, found.dtype, found.implementation) == ("s", "float32", "kblam latent")
    assert found.least < 2 < found.most
    assert found.least <= found.median <= found.most
    monkeypatch.undo()
    assert worktrees(checkout) == 1


def test_warm_and_cold_are_told_apart(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        if command[0] == "git":
            return real(command, **options)
        row = {"shape": "s", "phase": "decode", "implementation": "kblam latent", "backend": None, "dtype": "float32"}
        is_here = Path(options["cwd"]) == checkout
        rows = [row | {"l2": "cold", "seconds": 1 if is_here else 2}, row | {"l2": "warm", "seconds": 1}]
        Path(command[-1]).write_text(json.dumps({"format": FORMAT, "environment": {}, "models": [], "rows": rows}))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    found = against.compare("before", [], 1)
    assert [(one.l2, one.median) for one in found] == [("cold", 2), ("warm", 1)]


def test_a_run_that_fails_says_why_and_leaves_nothing(checkout: Path) -> None:
    # There is no package in this checkout.
    with pytest.raises(BenchmarkError, match=r"kblam bench in .* failed: "):
        against.compare("before", ["--shapes", "no-such-shape"], 1)
    assert worktrees(checkout) == 1


@pytest.mark.parametrize(
    ("commit", "message"),
    [("nothing", "git knows no commit 'nothing' here"), ("--all", "git knows no commit '--all'"), ("old", "is older")],
)
def test_a_commit_that_cannot_be_compared_is_refused(commit: str, message: str, checkout: Path) -> None:
    with pytest.raises(BenchmarkError, match=message):
        against.compare(commit, [], 1)
    assert worktrees(checkout) == 1


def test_an_installed_package_has_no_other_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against, "ROOT", tmp_path)
    with pytest.raises(BenchmarkError, match="is no checkout of git"):
        against.compare("HEAD", [], 1)


def test_the_command_passes_its_options_on_and_names_the_control(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str], int]] = []

    def compare(commit: str, options: list[str], rounds: int, told: object) -> list[against.Ratio]:
        asked.append((commit, options, rounds))
        cold = against.Ratio("tiny decode", "float32", "kblam latent", 1.25, 1.1, 1.5)
        return [cold, dataclasses.replace(cold, l2="warm")]

    monkeypatch.setattr(against, "compare", compare)
    command = ["bench", "--against", "HEAD~1", "--rounds", "2", "--shapes", "tiny", "--triples", "20"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    ((commit, options, rounds),) = asked
    assert (commit, rounds) == ("HEAD~1", 2)
    assert options[-4:] == ["--shapes", "tiny", "--triples", "20"]
    assert all(figure in done.stdout for figure in ("1.25", "1.10", "1.50"))
    assert "kblam latent, warm" in done.stdout
    assert "sdpa static cache is the same in both" in done.stdout
    refused = CliRunner().invoke(app, [*command, "--json", "x.json"])
    assert refused.exit_code == 2
    assert "leave --compare, --json and --profile out" in " ".join(refused.stderr.split())
