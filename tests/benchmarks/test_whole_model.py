"""Whole models with knowledge over without, on a tiny one: rows, what fails, and that every step starts anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import StaticCache

from benchmarks import gpu_bench
from kblam.bench import models, whole_model
from kblam.bench.models import CONFIGS, TINY
from kblam.bench.whole_model import Case, Decoding, Models, Settings

SETTINGS = Settings("cpu", context=20, repeats=2)


def models_of(folder: Path) -> list[dict[str, Any]]:
    stored: list[dict[str, Any]] = json.loads((folder / "cpu" / "attention.json").read_text())["models"]
    return stored


def test_a_row_for_each_model_and_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--device", "cpu", "--tiny", "--match", "model", "--results", str(tmp_path)]
    assert gpu_bench.main(command) == 0
    rows = models_of(tmp_path)
    assert [row["shape"] for row in rows] == [case.name for case in whole_model.TOYS]
    for row in rows:
        assert row["status"] == "measured"
        assert row["ratio"] == pytest.approx(row["tokens_per_second"] / row["without"])
        assert 0 < row["p10"] <= 1 / row["tokens_per_second"] <= row["p90"]
        assert row["as_upstream"] > 0 < row["as_upstream_bytes"]
        assert row["latent_bytes"] == row["triples"] * (2 * 128 * 2 + 4)
        assert row["launches"] > 0 < row["launches_without"]
        assert any("latent" in kernel["name"] for kernel in row["kernels"]), "knowledge was in force"
    assert "tokens/s" in capsys.readouterr().out
    before = rows
    assert gpu_bench.main([*command, "--resume"]) == 0
    assert models_of(tmp_path) == before, "nothing was measured twice"


@pytest.mark.parametrize(
    ("problem", "status", "code"),
    [(torch.OutOfMemoryError("16 GiB"), "does not fit", 0), (RuntimeError(""), "failed", 1)],
)
def test_a_model_that_cannot_be_built_is_a_row(
    problem: Exception, status: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*arguments: Any, **options: Any) -> Any:
        raise problem

    monkeypatch.setattr(models, "build", build)
    command = ["--device", "cpu", "--tiny", "--match", "model", "--results", str(tmp_path)]
    assert gpu_bench.main(command) == code
    assert [row["status"] for row in models_of(tmp_path)] == [status] * 2


def test_cases_of_one_model_share_it_and_the_next_frees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    build = models.build
    monkeypatch.setattr(models, "build", lambda config, **options: built.append(config) or build(config, **options))
    monkeypatch.setitem(whole_model.CONFIGS, "other", CONFIGS[TINY])
    kept = Models("cpu")
    first = kept.of("tiny")
    assert kept.of("tiny") is first
    assert len(built) == 1
    assert kept.of("other") is not first
    kept.free()
    assert len(built) == 2


@torch.no_grad()
def test_every_call_decodes_the_same_tokens() -> None:
    """A graph that is replayed forever must not run out of its cache, nor drift."""
    attachment = models.build(CONFIGS[TINY])
    seen: list[tuple[list[int], torch.Tensor]] = []

    def forward(token: torch.Tensor, **cached: StaticCache) -> Any:
        (cache,) = cached.values()
        length = int(cache.get_seq_length())
        out = attachment.model(token, **cached)
        seen.append(([length, int(cache.get_seq_length())], out.logits.clone()))
        return out

    decode = Decoding(attachment.model, forward, 20)
    for _ in range(3):
        decode._token.fill_(7)
        decode()
    assert [lengths for lengths, _ in seen] == [[n, n + 1] for n in range(20 - whole_model.STEPS, 20)] * 3
    first, last = seen[: whole_model.STEPS], seen[-whole_model.STEPS :]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, last, strict=True))


def test_random_weights_are_drawn_on_the_device_in_its_dtype() -> None:
    model, _ = models.parts(CONFIGS[TINY], "meta")
    parameters = list(model.parameters())
    assert {parameter.device.type for parameter in parameters} == {"meta"}, "nothing passes through host memory"
    assert {parameter.dtype for parameter in parameters} == {torch.bfloat16}


def test_models_have_the_published_sizes() -> None:
    published = {
        "Llama-3-8B": (8.03, 11),
        "Llama-3.2-1B": (1.24, 6),
        "Phi-3-mini": (3.82, 11),
        "Qwen2.5-0.5B": (0.494, 8),
        "SmolLM2-135M": (0.135, 10),
    }
    assert [name for name in CONFIGS if name != TINY] == list(published)
    for name, (billions, layers) in published.items():
        model, adapter = models.parts(CONFIGS[name], "meta")
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.005)
        assert len(adapter.config.knowledge_layers) == layers


def test_the_order_keeps_each_model_together() -> None:
    for cases in (whole_model.QUICK, whole_model.FULL):
        names = [case.model for case in cases]
        assert len(dict.fromkeys(names)) == sum(a != b for a, b in zip([None, *names], names, strict=False))
    assert Case("m", 5).name == "m model M5"
