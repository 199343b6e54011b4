"""`kblam bench` on toy shapes: its tables and files, a comparison, and what it refuses before it measures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from typer.testing import CliRunner, Result

from kblam.bench import against, cases, ceilings, environment, measured, subjects, traces
from kblam.bench.cases import Case
from kblam.bench.rows import Row
from kblam.bench.shapes import TINY, Shape, of
from kblam.bench.timing import Timing
from kblam.cli.app import app
from kblam.errors import BenchmarkError
from kblam_kernels.common import native

TOY = ("--shapes", "tiny", "--triples", "70", "--dtype", "float32", "--phases", "decode", "--no-flex")


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if (reason := native.unavailable()) is not None:
        pytest.skip(reason)
    monkeypatch.setattr(cases, "quick", lambda device: [Case(of(TINY, "decode", 70), torch.float32)])


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[measured.Run]:
    """A device that takes anything and measures nothing: the runs that were asked of it."""
    runs: list[measured.Run] = []

    def rows(shape: Shape, run: measured.Run) -> list[Row]:
        runs.append(run)
        return []

    about = environment.environment("cpu")
    monkeypatch.setattr(environment, "check_device", lambda device: None)
    monkeypatch.setattr(environment, "environment", lambda device: about)
    monkeypatch.setattr(cases, "check_fits", lambda case, device: None)
    monkeypatch.setattr(cases, "FULL", cases.quick("cpu"))
    monkeypatch.setattr(ceilings, "of", lambda device, dtype: ceilings.Ceilings(1e9, 1e9, 1e9, {}))
    monkeypatch.setattr(measured, "rows", rows)
    return runs


def bench(*options: str | Path) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, options)])


def test_a_table_and_a_file_that_says_where_it_is_from(tmp_path: Path) -> None:
    file = tmp_path / "new" / "bench.json"
    done = bench("--quick", "--json", file)
    assert done.exit_code == 0, done.output
    stored = json.loads(file.read_text())
    assert [row["implementation"] for row in stored["rows"]] == subjects.names("decode", "cpu")
    assert {"device", "cpu", "instruction_set", "threads", "clock", "commit", "torch", "began"} <= set(
        stored["environment"]
    )
    assert stored["environment"]["cpu"]["model"]
    for shown in ("composed latent", "x best peer", "not run: needs a CUDA device", "left out of this run", "threads"):
        assert shown in done.stdout
    assert len(list(file.parent.iterdir())) == 1


def test_a_size_of_ones_own_model(tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    options = ("--shapes", "6x3x8x20", "--triples", "1K", "--phases", "decode,evidence", "--dtype", "float32")
    assert bench(*options, "--no-flex", "--json", file).exit_code == 0
    names = dict.fromkeys(row["shape"] for row in json.loads(file.read_text())["rows"])
    assert list(names) == ["6x3x8x20 decode B1 N1 T65 M1000", "6x3x8x20 evidence B1 N1 T65 M1000"]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--storage", "int8"], ["kblam latent int8", "kblam int8 products", "kblam dense"]),
        (["--storage", "float32"], ["kblam latent", "kblam dense"]),
        (["--plan", "dense"], ["kblam dense"]),
        (["--plan", "latent", "--storage", "float32,float8_e4m3fn"], ["kblam latent", "kblam latent fp8"]),
    ],
    ids=" ".join,
)
def test_storage_and_plan_choose_which_of_ours_are_measured(
    options: list[str], left: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "rows.json"
    assert bench(*TOY, *options, "--peers", "sdpa concat", "--json", file).exit_code == 0
    names = [row["implementation"] for row in json.loads(file.read_text())["rows"]]
    assert names == [*left, "sdpa concat"]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_what_is_compiled_for_each_shape_is_measured_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the compiler's minute: the same function, run as it is."""
    monkeypatch.setattr("kblam.bench.peers._compiled_flex", lambda: flex_attention)
    file, peer = tmp_path / "rows.json", "flex static cache"

    def status(*options: str) -> str:
        assert bench(*options, "--plan", "dense", "--peers", peer, "--json", file).exit_code == 0
        return {row["implementation"]: row["status"] for row in json.loads(file.read_text())["rows"]}[peer]

    assert [status("--quick"), status("--quick", "--flex"), status(*TOY[:-1])] == ["measured"] * 3


def test_lengths_of_prefill_are_chosen(tmp_path: Path) -> None:
    found = cases.chosen(["tiny"], ["70"], ["float32"], phases=["decode", "prefill"], tokens=["5", "7"])
    assert [(case.shape.phase, case.shape.N) for case in found] == [("decode", 1), ("prefill", 5), ("prefill", 7)]


def test_an_earlier_run_stands_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "before.json"
    assert bench(*TOY, "--json", file).exit_code == 0
    stored = json.loads(file.read_text())
    for row in stored["rows"]:
        if row["seconds"]:
            row["seconds"] = 0.5
    file.write_text(json.dumps(stored))
    done = bench(*TOY, "--compare", file)
    assert done.exit_code == 0, done.output
    assert "x before" in done.stdout
    line = next(line for line in done.stdout.splitlines() if line.strip().startswith("kblam dense"))
    assert float(line.split()[-1]) > 5, "half a second before, milliseconds now"


def test_a_profile_is_a_trace_and_ten_operations(tmp_path: Path) -> None:
    file = tmp_path / "new" / "token.json"
    done = bench("--profile", file, "--shapes", "tiny", "--triples", "50", "--storage", "int8")
    assert done.exit_code == 0, done.output
    assert "50 triples in int8" in done.stdout
    events = json.loads(file.read_text())["traceEvents"]
    assert any("latent" in event.get("name", "") for event in events), "knowledge was in force"
    rows = [line for line in done.stdout.splitlines() if line.rstrip().endswith("%")]
    shares = [float(line.split()[-1].removesuffix("%")) for line in rows]
    assert len(shares) == 10
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100.5
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("options", "compiles"),
    [
        ([], True),
        (["--quick"], False),
        (["--no-flex"], False),
        (["--quick", "--flex"], True),
        (["--quick", "--peers", "flex concat"], True),
        (["--quick", "--peers", "sdpa concat"], False),
        (["--quick", "--peers", "compiled mass"], True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_compiled_peers_are_left_out_where_asked_and_named_ones_are_not(
    device: str, options: list[str], compiles: bool, on_a_gpu: list[measured.Run]
) -> None:
    done = bench(*options, "--device", device)
    assert done.exit_code == 0, done.output
    assert {run.compiles for run in on_a_gpu} == {compiles}


def test_the_file_of_a_gpu_has_the_ceilings_of_each_dtype(
    on_a_gpu: list[measured.Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[torch.dtype] = []

    def limits(device: str, dtype: torch.dtype) -> ceilings.Ceilings:
        asked.append(dtype)
        return ceilings.Ceilings(1e9, 2e9, 3e9 * dtype.itemsize, {"copy": Timing(1.0, 1.0, 1.0, 1)})

    monkeypatch.setattr(ceilings, "of", limits)
    file = tmp_path / "gpu.json"
    options = ("--shapes", "tiny", "--triples", "10,20", "--dtype", "float32,bfloat16", "--phases", "decode")
    done = bench(*options, "--device", "cuda", "--json", file)
    assert done.exit_code == 0, done.output
    assert asked == [torch.float32, torch.bfloat16], "once, so that all rows of a dtype are shares of one ceiling"
    stored = json.loads(file.read_text())["ceilings"]
    assert {dtype: each["matmul"] for dtype, each in stored.items()} == {"float32": 12e9, "bfloat16": 6e9}
    assert stored["float32"]["timings"]["copy"]["median"] == 1
    assert {(run.dtype_name, run.limits.matmul) for run in on_a_gpu} == {("float32", 12e9), ("bfloat16", 6e9)}


def changed(file: Path, **about: Any) -> None:
    stored = json.loads(file.read_text())
    stored["environment"] |= about
    file.write_text(json.dumps(stored))


BAD = [
    (["--shapes", "llama-4"], "--shapes: 'llama-4' is not one of llama-3-8b, llama-3.2-1b"),
    (["--shapes", "9x2x64"], "'9x2x64' has 9 heads, which must be a multiple of 2 key heads"),
    (["--shapes", "4x0x64"], "multiple of 0 key heads"),
    (["--triples", "many"], "--triples: 'many' is no whole number of triples"),
    (["--triples", "-5"], "--triples: '-5' is no whole number"),
    (["--triples", "900000M"], "GB of memory, and"),
    (["--shapes", "tiny", "--triples", "70,900000M"], "GB of memory, and"),
    (["--tokens", "few"], "--tokens: 'few' is no number of new tokens, such as 128"),
    (["--tokens", "0"], "--tokens: '0' is no number"),
    (["--storage", "int4"], "--storage: 'int4' is not measured here; choose of bfloat16, float32, int8, float8_e4m3fn"),
    (["--dtype", "float32", "--storage", "float16"], "'float16' is not measured here; choose of float32, int8"),
    (["--plan", "fast"], "--plan: 'fast' is not measured here; choose of latent, dense, materialise"),
    (["--profile", "t.json", "--plan", "dense"], "--profile reads latents of one --storage"),
    (
        ["--profile", "t.json", "--quick", "--json", "x.json", "--dtype", "float32", "--no-flex"],
        "--profile traces one model and measures nothing else: leave --quick, --dtype, --json, --no-flex out",
    ),
    (["--profile", "t.json", "--peers", "sdpa concat", "--tokens", "5"], "leave --tokens, --peers out"),
    (["--profile", "t.json", "--triples", "10,20"], "--profile traces one: choose of --triples '10,20'"),
    (["--profile", "t.json", "--shapes", "tiny,phi-3-mini"], "choose of --shapes 'tiny,phi-3-mini'"),
    (["--profile", "t.json", "--compare", "old.json"], "leave --compare out"),
    (["--against", "HEAD", "--json", "x.json"], "leave --compare, --json and --profile out"),
    (["--against", "HEAD", "--peers", "sdpa concat"], "--against has one peer, 'sdpa static cache', and compiles none"),
    (["--against", "HEAD", "--flex"], "leave --peers and --flex out"),
    (["--rounds", "7"], "--rounds is of --against; leave it out"),
    (["--no-flex", "--peers", "flex concat"], "--no-flex leaves out 'flex concat', which --peers names"),
    (["--dtype", "int4"], "--dtype: 'int4' is not one of bfloat16, float16, float32"),
    (["--phases", "training"], "--phases: 'training' is not one of decode, prefill, question, evidence"),
    (["--peers", "fastest"], "--peers: 'fastest' is not one of composed latent"),
    (["--peers", "two cuDNN calls + merge"], "cannot run here: needs a CUDA device"),
    (["--device", "tpu"], "--device: 'tpu' is not cpu or cuda"),
    (["--device", "cuda:first"], "--device: 'cuda:first' is not cpu or cuda"),
    (["--compare", "nothing.json"], "cannot read nothing.json: No such file"),
    (["--compare", "old.json"], "old.json is a list of rows that do not say which machine and commit they are of"),
    (["--compare", "text.json"], "text.json is no result file of kblam bench: not JSON"),
    (["--compare", "other.json"], "its format is None, not 'kblam bench 2'"),
    (["--compare", "half.json"], "half.json is no report that can be read"),
    (["--profile", "."], "--profile: . is a folder"),
    (["--profile", "t.json", "--shapes", "6x3x8"], "'6x3x8' is a shape of attention alone; models are Llama-3-8B"),
    (["--json", "."], "--json: . is a folder"),
    (["--json", "old.json/new.json"], "is no folder that may be written"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[" ".join(options) for options, _ in BAD])
def test_bad_input_is_one_line_and_nothing_is_measured_or_written(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.json").write_text("[]")
    Path("text.json").write_text("ms 3.5")
    Path("other.json").write_text("{}")
    Path("half.json").write_text('{"format": "kblam bench 2", "environment": {}, "models": []}')
    before = sorted(tmp_path.iterdir())

    def measures(*_: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(measured, "rows", measures)
    monkeypatch.setattr(against, "compare", measures)
    monkeypatch.setattr(traces, "build", measures)
    has_own = {"--json", "--profile", "--against"} & set(options)
    done = bench(*options, *([] if has_own else ["--json", "out.json"]))
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.split())
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("name", "value"), [("device", "NVIDIA H200"), ("threads", 64), ("cpu", {"model": "Z80"})])
def test_a_run_of_another_machine_is_not_compared(name: str, value: Any, tmp_path: Path) -> None:
    file = tmp_path / "before.json"
    assert bench(*TOY, "--json", file).exit_code == 0
    changed(file, **{name: value})
    done = bench(*TOY, "--compare", file)
    assert done.exit_code == 2
    assert f"is of another machine: its {name} is" in " ".join(done.stderr.split())


def test_a_size_that_does_not_fit_is_left_out_of_the_list_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    huge = Case(of(TINY, "decode", 10**12), torch.float32)
    few = cases.quick("cpu")
    monkeypatch.setattr(cases, "quick", lambda device: [*few, huge])
    file = tmp_path / "rows.json"
    done = bench("--quick", "--json", file)
    assert done.exit_code == 0, done.output
    assert "left out: tiny decode" in done.stderr
    assert json.loads(file.read_text())["left_out"] == [huge.name]


def test_a_wrong_result_of_ours_is_shown_and_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subjects.rectangular_attention
    monkeypatch.setattr(subjects, "rectangular_attention", lambda *a, **options: real(*a, **options) * 1.04)
    done = bench(*TOY)
    assert done.exit_code == 1
    assert "failed: kblam latent, tiny decode" in done.stderr


def test_without_kernels_there_is_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBLAM_BUILD", "0")
    done = bench("--quick")
    assert done.exit_code == 2
    assert "KBLAM_BUILD=0 turns the C++ kernels off" in " ".join(done.stderr.split())


def test_what_is_chosen_is_every_combination() -> None:
    found = cases.chosen(["smollm2-135m", "Phi-3-mini"], ["0", "1M"], ["float32", "bfloat16"], phases=["question"])
    assert [case.name for case in found[:3]] == [
        "SmolLM2-135M question B1 N32 T32 M0 float32",
        "SmolLM2-135M question B1 N32 T32 M0 bfloat16",
        "SmolLM2-135M question B1 N32 T32 M1000000 float32",
    ]
    assert len(found) == 8
    heads = found[0].shape.model
    assert (heads.query_heads, heads.key_heads, heads.head_dim) == (9, 3, 64)


def test_the_lists_cover_the_sizes_that_are_claimed() -> None:
    decode = {case.shape.M for case in cases.FULL if case.shape.phase == "decode" and case.dtype == torch.bfloat16}
    assert {10_000, 100_000, 1_000_000} <= decode
    assert {case.shape.N for case in cases.FULL if case.shape.M == 10_000} >= {1, 16, 128, 512, 2048}
    assert len({case.name for case in cases.FULL}) == len(cases.FULL)


def test_the_memory_of_a_case_grows_with_it() -> None:
    small, large = (Case(of(TINY, "decode", M), torch.float32).bytes_needed for M in (10**4, 10**6))
    assert 90 < large / small < 101
    half = dataclasses.replace(Case(of(TINY, "decode", 10**6), torch.bfloat16))
    assert half.bytes_needed < large


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="'tpu' is not cpu or cuda"):
        environment.check_device("tpu")


@pytest.mark.parametrize(("device", "is_first"), [("cuda", True), ("cuda:0", True), ("cuda:1", False)])
def test_only_the_first_gpu_is_measured(monkeypatch: pytest.MonkeyPatch, device: str, is_first: bool) -> None:
    """Graphs, events and peaks of memory would be those of the first whatever was asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if is_first:
        environment.check_device(device)
        return
    with pytest.raises(BenchmarkError, match="with CUDA_VISIBLE_DEVICES=1 and --device cuda it is the first"):
        environment.check_device(device)
