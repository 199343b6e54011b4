"""`kblam bench` on toy shapes: a row for each provider, nothing wrong is timed, heads that stand for others."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from typer.testing import CliRunner

import kblam_kernels.bench
from benchmarks import cpu_attention
from kblam.cli.app import app
from kblam_kernels import BackendUnavailableError
from kblam_kernels.bench import FULL, QUICK, Shape, measure, providers, shapes, timing
from kblam_kernels.bench.timing import PRODUCT, READ
from kblam_kernels.common import native
from kblam_kernels.errors import KernelError

TINY = Shape(1, 70, "float32", heads=4, prompt_heads=2, head_dim=16, width=24, cached=3)
KEYS = {"regime", "provider", "triples", "queries", "dtype", "ms", "ratio_to_best_peer", "share_of_ceiling"}
PROVIDERS = ["kblam latent", "kblam latent int8", "kblam dense", "sdpa", "eager", "two calls and merge"]
CEILINGS = ["ceiling, latent int8", "ceiling, latent", "ceiling, dense"]


@pytest.fixture(autouse=True)
def _kernels() -> None:
    reason = native.unavailable()
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("queries", [1, 6])
def test_a_row_for_each_provider_and_ceiling(queries: int, dtype: str) -> None:
    rows = measure(dataclasses.replace(TINY, queries=queries, dtype=dtype), repeats=1, flex=False)
    assert [row["provider"] for row in rows] == [*PROVIDERS, *CEILINGS]
    for row in rows:
        assert set(row) == KEYS
        assert row["regime"] == f"{'decode' if queries == 1 else 'prefill'}, 4 heads x 16"
        assert row["triples"] == 70
        assert (row["queries"], row["dtype"]) == (queries, dtype)
        assert row["ms"] > 0
    peers = [row["ratio_to_best_peer"] for row in rows[3:6]]
    assert max(peers) == 1
    assert [row["share_of_ceiling"] for row in rows[-3:]] == [1, 1, 1]
    floors = {row["provider"].removeprefix("ceiling, "): row["ms"] for row in rows[-3:]}
    for row in rows:
        floor = (
            floors[row["provider"].removeprefix("ceiling, ").removeprefix("kblam ")]
            if "latent" in row["provider"]
            else floors["dense"]
        )
        # Times are rounded to a tenth of a microsecond, which counts at this size.
        assert row["share_of_ceiling"] == pytest.approx(floor / row["ms"], rel=0.2, abs=2e-3)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("queries", [1, 6])
def test_flex_is_a_peer_too(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not compiled: that takes most of a minute and changes no number.
    monkeypatch.setattr(providers, "_compiled_flex", lambda: flex_attention)
    rows = measure(dataclasses.replace(TINY, queries=queries), repeats=1)
    assert "compiled flex" in [row["provider"] for row in rows]


def test_a_wrong_provider_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = providers.ours

    def wrong(shape: Shape, x: shapes.Inputs) -> dict[str, providers.Call]:
        calls = real(shape, x)
        dense = calls["kblam dense"]
        return {**calls, "kblam dense": lambda: dense() * 1.01}

    monkeypatch.setattr(providers, "ours", wrong)
    with pytest.raises(KernelError, match=r"kblam dense is off by 0\.01"):
        measure(TINY, repeats=1, flex=False)


def test_dense_heads_that_do_not_fit_stand_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TINY.dense_heads == 4
    monkeypatch.setattr(shapes, "MAX_DENSE_BYTES", 2 * 70 * 16 * 4 * 2)
    assert TINY.dense_heads == 2
    x = shapes.make(TINY)
    assert x.keys.shape == (1, 2, 74, 16)

    def constant(calls: dict[str, object], repeats: int) -> dict[str, list[float]]:
        return {name: [1.0] for name in calls}

    monkeypatch.setattr(timing, "_timed", constant)
    times = {row["provider"]: row["ms"] for row in measure(TINY, flex=False)}
    # Two of four heads were timed; the latents are those of all heads.
    assert times["eager"] == times["kblam dense"] == times["ceiling, dense"] == 2
    assert times["kblam latent"] == times["kblam latent int8"] == times["ceiling, latent"] == 1


def test_the_ceiling_reads_all_bytes_of_the_knowledge(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counted(tensor: Tensor) -> Tensor:
        read.append(tensor.nbytes)
        return tensor

    monkeypatch.setattr(timing, "_read", counted)
    measure(TINY, repeats=1, flex=False)
    # Warm-up and one repeat, of keys and values.
    assert sum(read) == 2 * 2 * (70 * 24 * (4 + 1) + 4 * 70 * 16 * 4)
    assert READ.startswith("ceiling")


def test_every_turn_times_all_and_of_its_products_the_fastest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def lasting(*seconds: float) -> Callable[[], None]:
        left = iter(seconds)

        def call() -> None:
            nonlocal now
            now += next(left)

        return call

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    monkeypatch.setattr(timing, "PRODUCTS", 2)
    product = f"{PRODUCT}, square"
    calls = {"eager": lasting(0.1, 3.0, 9.0), product: lasting(0.1, 0.1, 5.0, 4.0, 6.0, 7.0)}
    assert timing._timed(calls, repeats=2) == {"eager": [3000, 9000], product: [4000, 6000]}


def test_a_share_of_the_ceiling_is_that_of_the_same_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    # The machine is three times slower in the second turn and half as fast in the third.
    speeds = (1.0, 3.0, 2.0)

    def wandering(calls: dict[str, object], repeats: int) -> dict[str, list[float]]:
        of = {"kblam dense": 2.0, f"{READ}, dense": 1.5, "eager": 4.0}
        return {name: [of.get(name, 1e-6) * speed for speed in speeds] for name in calls}

    monkeypatch.setattr(timing, "_timed", wandering)
    rows = {row["provider"]: row for row in measure(TINY, flex=False)}
    assert rows["kblam dense"]["share_of_ceiling"] == 0.75
    assert rows["kblam dense"]["ms"] == 4.0
    assert rows["ceiling, dense"]["ms"] == 3.0


@pytest.mark.parametrize("faster", ["square", "dense"])
def test_arithmetic_is_held_to_the_faster_product(faster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = dataclasses.replace(TINY, queries=6)
    tiles = timing._tiles() * 128 * 16 * 256
    rate = {"square": 1e6, "dense": 1e6, faster: 5e6}  # multiplications a millisecond
    times = {f"{READ}, dense": 1e-9}
    times |= {f"{PRODUCT}, square": timing.SIDE**3 / rate["square"], f"{PRODUCT}, dense": tiles / rate["dense"]}
    assert timing._floor(shape, "dense", times) == pytest.approx(2 * 4 * 6 * 70 * 16 / 5e6)


def test_rows_of_two_shapes_can_be_told_apart() -> None:
    assert Shape(1, 10_000).row_regime == "decode"
    assert Shape(1, 10_000, head_dim=64).row_regime == "decode, 32 heads x 64"
    assert len({(shape.row_regime, shape.triples, shape.queries, shape.dtype) for shape in FULL}) == len(FULL)


def test_without_kernels_there_is_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBLAM_BUILD", "0")
    with pytest.raises(BackendUnavailableError, match="KBLAM_BUILD=0"):
        measure(TINY)


def test_shapes_cover_the_sizes_that_are_claimed() -> None:
    decode = {shape.triples for shape in FULL if shape.queries == 1 and shape.dtype == "bfloat16"}
    assert {10_000, 100_000, 1_000_000} <= decode
    assert {shape.queries for shape in FULL if shape.triples == 10_000} >= {1, 128, 512, 2048}
    assert set(QUICK) <= set(FULL)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both lists of shapes are one toy, wherever they are imported from."""
    for module in (kblam_kernels.bench, cpu_attention):
        for name in ("FULL", "QUICK"):
            monkeypatch.setattr(module, name, (TINY,))


def test_the_command_prints_a_table_and_writes_the_rows(tiny: None, tmp_path: Path) -> None:
    file = tmp_path / "new" / "bench.json"
    result = CliRunner().invoke(app, ["bench", "--quick", "--no-flex", "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert [row["provider"] for row in json.loads(file.read_text())] == [*PROVIDERS, *CEILINGS]
    assert "two calls and merge" in result.stdout
    assert "x best peer" in result.stdout


def test_the_command_says_why_it_cannot_measure(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBLAM_BUILD", "0")
    result = CliRunner().invoke(app, ["bench", "--quick"])
    assert result.exit_code == 2
    assert "KBLAM_BUILD=0 turns the C++ kernels off" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_the_script_has_the_same_rows(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    try:
        assert (
            cpu_attention.main(["--quick", "--no-flex", "--threads", "1", "--json", str(tmp_path / "rows.json")]) == 0
        )
    finally:
        torch.set_num_threads(before)
    assert [row["provider"] for row in json.loads((tmp_path / "rows.json").read_text())] == [*PROVIDERS, *CEILINGS]
    assert "kblam latent" in capsys.readouterr().out
