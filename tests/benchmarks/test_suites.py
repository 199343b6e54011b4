"""The suites of `benchmarks/` on toy shapes: all of them run, their file says what it should, native options work."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from pytest_benchmark.session import PerformanceRegression

from benchmarks import conftest, suite, test_build
from kblam.bench import problems, subjects
from kblam.bench.cases import Case
from kblam.bench.probes import PRODUCT, READ, Probe
from kblam.bench.shapes import TINY, Work, of
from kblam.bench.subjects import Subject
from kblam_kernels.tools import env
from tests.warm import run

ROOT = Path(__file__).parents[2]
TOY = ("--shapes", "tiny", "--triples", "20", "--dtype", "float32", "--quick", "--benchmark-max-time", "0.005")


@dataclass(frozen=True)
class Done:
    """One run of the suites: pytest's exit status, what it said, and the reasons of what was skipped."""

    status: int
    said: str
    skipped: list[str]


class _Skips:
    """Keeps the reasons."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self.reasons.append(str(report.longrepr[2]).removeprefix("Skipped: "))  # type: ignore[index]


def suites(*options: str | Path) -> Done:
    """Runs pytest in this process: another one would import torch and transformers anew."""
    skips, said = _Skips(), io.StringIO()
    command = ["-q", "-s", "--benchmark-only", "--timeout=0", "-p", "no:cacheprovider", *map(str, options)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.chdir(ROOT)
        # A worker's own variables would make the inner run one of its workers, and benchmarks are off in those.
        for name in [name for name in os.environ if name.startswith("PYTEST_")]:
            patch.delenv(name)
        status = pytest.main(command, plugins=[skips])
    return Done(int(status), said.getvalue(), skips.reasons)


@pytest.fixture(scope="module")
def all_of_them(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, dict[str, Any]]:
    """Every suite once, and its file."""
    file = tmp_path_factory.mktemp("suites") / "all.json"
    done = suites("benchmarks", *TOY, "--benchmark-json", file)
    assert done.status == 0, done.said[-3000:]
    return done, json.loads(file.read_text())


def groups_of(stored: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """extra_info by group and implementation."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in stored["benchmarks"]:
        groups.setdefault(entry["group"], {})[entry["extra_info"]["implementation"]] = entry["extra_info"]
    return groups


def test_what_did_not_run_says_why(all_of_them: tuple[Done, dict[str, Any]]) -> None:
    done, _ = all_of_them
    assert "two cuDNN calls + merge: not run: needs a CUDA device" in done.skipped


def test_the_file_says_what_attention_took_and_where(all_of_them: tuple[Done, dict[str, Any]]) -> None:
    _, stored = all_of_them
    assert stored["machine_info"]["kblam"]["cpu"]["model"]
    assert {"device", "cpu", "instruction_set", "threads", "commit", "torch"} <= set(stored["environment"])
    groups = groups_of(stored)
    decode = groups["tiny decode B1 N1 T65 M20 float32"]
    assert {"kblam latent", "kblam int8 products", "kblam dense", "composed latent", "eager concat"} <= set(decode)
    for info in decode.values():
        assert info["ratio_to_best_peer"] > 0 < info["tflops"]
        assert 0 < info["share_of_ceiling"] <= 1 + 1e-9
        assert info["knowledge_bytes"] > 0 < info["peak_bytes"]
        assert {"layout", "storage", "device", "driver", "torch", "commit", "cpu", "threads"} <= set(info)
    assert decode["kblam latent int8"]["storage"] == "int8"
    assert decode["kblam latent"]["backend"] in ("cpu", "reference")
    for group in ("tiny prefill B1 N128 T128 M20 float32", "tiny evidence B1 N1 T65 M20 float32"):
        assert any(name.startswith("kblam") for name in groups[group])


def test_the_file_has_whole_models_building_and_training_too(all_of_them: tuple[Done, dict[str, Any]]) -> None:
    groups = groups_of(all_of_them[1])
    ways = [
        "without knowledge",
        "kblam latent",
        "kblam latent int8",
        "kblam int8 products",
        "as upstream",
        "in context",
    ]
    assert list(groups["tiny next 8 tokens M20"]) == list(groups["tiny first token M20"]) == ways
    first = groups["tiny first token M20"]
    assert first["as upstream"]["knowledge_bytes"] > 0
    stored = {name: (info["layout"], info["storage"]) for name, info in first.items()}
    assert stored["kblam latent int8"] == ("latent", "int8")
    assert stored["as upstream"][0] == "dense"
    assert stored["without knowledge"] == ("", "")
    assert {"into a file M20", "tiny onto the device M20", "tiny one triple changed M20"} <= set(groups)
    for group in ("train stage 1", "train stage 2 M20"):
        info = groups[group]["kblam"]
        assert info["rows"] > 0 < info["learned_weights"]
        assert info["peak_bytes"] > 0
        assert {"device", "threads", "commit"} <= set(info)


def test_a_planted_slowdown_fails_a_comparison(tmp_path: Path) -> None:
    options = ("benchmarks/test_decode.py", *TOY, "-k", "dense or eager", "--benchmark-storage", tmp_path)
    assert suites(*options, "--benchmark-autosave").status == 0
    (file,) = tmp_path.rglob("*.json")
    stored = json.loads(file.read_text())
    for entry in stored["benchmarks"]:
        for name in ("min", "median", "mean"):
            entry["stats"][name] /= 1000
    file.write_text(json.dumps(stored))
    with pytest.raises(PerformanceRegression, match="Performance has regressed"):
        suites(*options, "--benchmark-compare", "--benchmark-compare-fail=median:10%")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"shapes": "llama-4"}, "'llama-4' is not one of llama-3-8b"),
        ({"triples": "many"}, "'many' is no whole number"),
        ({"tokens": "few"}, "'few' is no number of new tokens"),
        ({"dtype": "int4"}, "'int4' is not one of bfloat16"),
        ({"device": "tpu"}, "'tpu' is not cpu or cuda"),
    ],
)
def test_bad_options_are_refused_before_anything_is_collected(option: dict[str, str], message: str) -> None:
    given = dict.fromkeys(("shapes", "triples", "dtype", "tokens"), "") | {"quick": False, "device": "cpu"} | option
    config: Any = SimpleNamespace(option=SimpleNamespace(**given), stash={})
    with pytest.raises(pytest.UsageError, match=message):
        conftest.pytest_configure(config)


def test_quick_suites_are_in_a_dtype_that_the_processor_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    given = dict.fromkeys(("shapes", "triples", "dtype", "tokens"), "") | {"quick": True, "device": "cpu"}
    for flags, expected in ((["avx2"], torch.float32), (["amx_bf16"], torch.bfloat16)):
        monkeypatch.setattr(env, "cpu", lambda flags=flags: {"flags": flags})
        for phase in ("decode", "prefill", "evidence"):
            assert [case.dtype for case in conftest.chosen(SimpleNamespace(**given), phase)] == [expected]
        # As `kblam bench` has it.
        for option, dtype in ({"dtype": "float16"}, torch.float16), ({"tokens": "512"}, torch.bfloat16):
            assert [case.dtype for case in conftest.chosen(SimpleNamespace(**given | option), "prefill")] == [dtype]


@pytest.mark.parametrize(("seconds", "calls", "way"), [(0.0, 2, "pedantic"), (60.0, 3, "rounds")])
def test_what_takes_long_is_called_twice(seconds: float, calls: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for its memory and once for its time; else once more, before either."""
    call, benchmark = mock.Mock(), mock.Mock(side_effect=lambda call: call(), extra_info={})
    benchmark.pedantic.side_effect = lambda call: call()
    monkeypatch.setattr(suite.timing, "ONCE_SECONDS", seconds)
    suite.with_peak(benchmark, call, "cpu")
    assert call.call_count == calls
    assert (benchmark.pedantic.called, benchmark.called) == (way == "pedantic", way == "rounds")
    assert "peak_bytes" in benchmark.extra_info


def test_a_bad_option_is_one_line(warm: None) -> None:
    done = run("-m", "pytest", "--benchmark-only", "benchmarks/test_decode.py", "--device", "tpu")
    assert done.returncode == 4, "pytest's own status for bad usage"
    assert "'tpu' is not cpu or cuda" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("device", "waits"), [("cuda", 2), ("cpu", 0)])
def test_a_call_is_over_when_the_device_is(device: str, waits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Building and changing are timed with rounds of their own: each ends, and is prepared, with nothing under way."""
    order: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("wait"))
    rounds = mock.Mock()
    rounds.pedantic.side_effect = lambda call, setup, **_: (setup(), call())
    base = SimpleNamespace(add=lambda fact: order.append("add"))
    made = SimpleNamespace(sync=lambda: order.append("sync"))
    monkeypatch.setattr(test_build, "in_memory", lambda triples: base)
    monkeypatch.setattr(test_build, "resident", lambda *_: made)
    monkeypatch.setattr(test_build, "note", lambda *_: None)
    request: Any = SimpleNamespace(config=SimpleNamespace(option=SimpleNamespace(device=device)))
    test_build.test_one_triple_changed(3, "tiny", rounds, request)
    assert order == (["add", "wait", "sync", "wait"] if waits else ["add", "sync"])
    order.clear()
    rounds.pedantic.side_effect = lambda call, **_: call()
    monkeypatch.setattr(test_build, "resident", lambda *_: order.append("made"))
    test_build.test_onto_the_device(3, "tiny", "kblam latent", rounds, request)
    assert order == (["made", "wait"] * 2 if waits else ["made"] * 2)


def test_the_memory_of_some_heads_is_not_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(of(TINY, "decode", 70), torch.float32)
    monkeypatch.setattr(problems, "MAX_DENSE_BYTES", case.shape.dense_bytes(2, 4))
    monkeypatch.setattr(suite, "run_timed", lambda *_, **__: None)
    suite.prepared.cache_clear()
    found = {}
    for name in ("kblam dense", "kblam latent"):
        benchmark: Any = SimpleNamespace(extra_info={})
        suite.time_attention(case, name, benchmark, device="cpu", compiles=False, seen={})
        found[name] = benchmark.extra_info["heads_timed"], benchmark.extra_info["peak_bytes"]
    suite.prepared.cache_clear()
    assert found["kblam dense"] == (0.5, None)
    assert found["kblam latent"][1] > 0


def test_ratios_and_shares_are_within_a_group() -> None:
    gone: Any = None
    made = {name: Subject(name, gone, gone, Work(0, 25), gone, "dense") for name in ("kblam dense", "sdpa")}
    ceiling = suite.Ceiling(made, {f"{READ}dense": Probe(gone, 100), f"{PRODUCT}square": Probe(gone, 1)}, {}, 4)
    ceiling.seconds.update({f"{READ}dense": 1.0, f"{PRODUCT}square": 1.0})

    def entry(name: str, group: str, median: float) -> dict[str, Any]:
        ours = name in subjects.OURS
        return {"group": group, "stats": {"median": median}, "extra_info": {"implementation": name, "is_ours": ours}}

    entries = [entry("kblam dense", "a", 2.0), entry("sdpa", "a", 4.0), entry("sdpa", "b", 1.0)]
    suite.with_ratios(entries, {"a": ceiling})
    ours, peer, other = (each["extra_info"] for each in entries)
    assert (ours["ratio_to_best_peer"], peer["ratio_to_best_peer"], other["ratio_to_best_peer"]) == (2, 1, 1)
    assert (ours["share_of_ceiling"], peer["share_of_ceiling"]) == (0.5, 0.25)
    assert "share_of_ceiling" not in other


def test_heads_that_stand_for_others_are_computed_as_often() -> None:
    calls: list[int] = []
    suite.repeated(lambda: calls.append(1), 4)()  # type: ignore[arg-type, return-value]
    assert len(calls) == 4
