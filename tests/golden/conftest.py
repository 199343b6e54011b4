"""Golden tests: fixtures, and the table of counts and worst errors at the end of the run."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.golden.comparison import Scores
from tests.golden.files import ROOT
from tests.golden.upstream_models import UpstreamModels
from tests.interpreter import made_once  # noqa: F401 - a fixture

_PROPERTY = "golden"


@pytest.fixture
def scores(request: pytest.FixtureRequest) -> Scores:
    """Where a golden test notes its errors, filed under the kind of its case."""
    result = Scores()
    case = request.node.callspec.params.get("case")
    kind, name = ("projection", request.node.callspec.id) if case is None else (case.kind, case.name)
    request.node.user_properties.append((_PROPERTY, (kind, name, result.worst)))
    return result


@pytest.fixture(scope="session")
def upstream_models(tmp_path_factory: pytest.TempPathFactory) -> UpstreamModels:
    """Models and adapters loaded from the golden weights, written out as upstream writes its checkpoints."""
    return UpstreamModels(tmp_path_factory.mktemp("upstream"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for each kind: how many cases passed of how many, and the worst errors."""
    cases: dict[str, set[str]] = defaultdict(set)
    failed: dict[str, set[str]] = defaultdict(set)
    worst: dict[str, Scores] = defaultdict(Scores)
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for kind, name, figures in (value for key, value in report.user_properties if key == _PROPERTY):
                cases[kind].add(name)
                if outcome == "failed":
                    failed[kind].add(name)
                for what, figure in figures.items():
                    worst[kind].note(what, figure)
    if not cases:
        return
    terminalreporter.section(f"golden data in {_short(ROOT)}")
    for kind in sorted(cases):
        figures = ", ".join(f"{what} {figure:.2g}" for what, figure in sorted(worst[kind].worst.items()))
        total = len(cases[kind])
        terminalreporter.line(f"{kind:12} {total - len(failed[kind]):4} of {total:4} pass; worst: {figures}")
    terminalreporter.line(f"{'all':12} {sum(map(len, cases.values())):4} cases")


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
