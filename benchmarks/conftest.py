"""Options of the suites, the shapes they are run on, and what their files say beside times; docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import suite
from kblam.bench import cases, subjects
from kblam.bench.environment import check_device
from kblam.errors import BenchmarkError
from kblam_kernels import BackendUnavailableError
from kblam_kernels.tools.env import quick_dtype

SEEN = pytest.StashKey[dict[str, suite.Ceiling]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kblam", "shapes of the suites")
    group.addoption("--shapes", default="", metavar="NAMES", help="models, or heads x key heads x head dim: 24x8x128")
    group.addoption("--triples", default="", metavar="COUNTS", help="knowledge sizes, such as 1000,10K,1M")
    group.addoption("--tokens", default="", metavar="COUNTS", help="new tokens of prefill, such as 128,512")
    group.addoption("--dtype", default="", metavar="NAMES", help="bfloat16, float16, float32")
    group.addoption("--quick", action="store_true", help="few shapes and rounds: under two minutes on two cores")
    group.addoption("--device", default="cpu", help="cpu or cuda")
    group.addoption("--flex", action="store_true", help="peers that are compiled for each shape too")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SEEN] = {}
    if config.option.quick:
        config.option.benchmark_min_rounds = min(2, config.option.benchmark_min_rounds)
        config.option.benchmark_max_time = str(min(Decimal("0.2"), Decimal(config.option.benchmark_max_time)))
    try:
        check_device(config.option.device)
        chosen(config.option, "decode")
    except (BenchmarkError, BackendUnavailableError) as error:
        raise pytest.UsageError(str(error)) from error


def words(option: str) -> list[str]:
    """Of a list with commas."""
    return [word.strip() for word in option.split(",") if word.strip()]


def chosen(option: Any, phase: str) -> list[cases.Case]:
    """The cases of a phase that the options ask for."""
    given = words(option.shapes), words(option.triples), words(option.dtype)
    if option.quick and not any(given) and not option.tokens:
        given = [], [], [cases.name_of(quick_dtype(option.device))]
    if any(given) or option.tokens or option.quick:
        return cases.chosen(*given, phases=(phase,), tokens=words(option.tokens))
    return [case for case in cases.FULL if case.shape.phase in (phase, {"prefill": "question"}.get(phase))]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A suite with a PHASE has a test for each of its cases and implementations."""
    if "attention" not in metafunc.fixturenames:
        return
    option = metafunc.config.option
    params = [
        pytest.param(case, name, id=f"{case.name}-{name}")
        for case in chosen(option, metafunc.module.PHASE)
        for name in subjects.names(case.shape.phase, option.device)
    ]
    metafunc.parametrize(("case", "implementation"), params)


@pytest.fixture
def attention(
    case: cases.Case, implementation: str, benchmark: BenchmarkFixture, request: pytest.FixtureRequest
) -> Callable[[], None]:
    """Times one implementation on one case."""
    option = request.config.option
    compiles = option.flex or option.device.startswith("cuda")

    def call() -> None:
        suite.time_attention(
            case, implementation, benchmark, device=option.device, compiles=compiles, seen=request.config.stash[SEEN]
        )

    return call


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """pytest-benchmark warns where runs of other machines are compared."""
    found = suite.about(config.option.device)
    machine_info["kblam"] = {name: found[name] for name in ("device", "cpu", "instruction_set", "threads", "driver")}


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """The environment, as other result files have it; ratios and shares, once all of a group are there."""
    output_json["environment"] = suite.about(config.option.device)
    suite.with_ratios(output_json["benchmarks"], config.stash[SEEN])
