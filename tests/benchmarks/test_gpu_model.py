"""Whole models with knowledge over without, on a tiny one: rows, what fails, and that every step starts anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import StaticCache

from benchmarks import gpu_bench, gpu_model, scale
from benchmarks.gpu_model import Case, Decoding, Models, Settings

SETTINGS = Settings("cpu", context=20, repeats=2)


def models_of(folder: Path) -> list[dict[str, Any]]:
    stored: list[dict[str, Any]] = json.loads((folder / "cpu" / "attention.json").read_text())["models"]
    return stored


def test_a_row_for_each_model_and_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--device", "cpu", "--tiny", "--match", "model", "--results", str(tmp_path)]
    assert gpu_bench.main(command) == 0
    rows = models_of(tmp_path)
    assert [row["shape"] for row in rows] == [case.name for case in gpu_model.TINY]
    for row in rows:
        assert row["status"] == "measured"
        assert row["ratio"] == pytest.approx(row["tokens_per_second"] / row["without"])
        assert 0 < row["p10"] <= 1 / row["tokens_per_second"] <= row["p90"]
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

    monkeypatch.setattr(scale, "build", build)
    command = ["--device", "cpu", "--tiny", "--match", "model", "--results", str(tmp_path)]
    assert gpu_bench.main(command) == code
    assert [row["status"] for row in models_of(tmp_path)] == [status] * 2


def test_cases_of_one_model_share_it_and_the_next_frees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    build = scale.build
    monkeypatch.setattr(scale, "build", lambda config, **options: built.append(config) or build(config, **options))
    monkeypatch.setitem(gpu_model.CONFIGS, "other", scale.SMOKE)
    models = Models("cpu")
    first = models.of("tiny")
    assert models.of("tiny") is first
    assert len(built) == 1
    assert models.of("other") is not first
    models.free()
    assert len(built) == 2


@torch.no_grad()
def test_every_call_decodes_the_same_tokens() -> None:
    """A graph that is replayed forever must not run out of its cache, nor drift."""
    attachment = scale.build(scale.SMOKE)
    seen: list[tuple[list[int], torch.Tensor]] = []

    def forward(token: torch.Tensor, past_key_values: StaticCache) -> Any:
        length = int(past_key_values.get_seq_length())
        out = attachment.model(token, past_key_values=past_key_values)
        seen.append(([length, int(past_key_values.get_seq_length())], out.logits.clone()))
        return out

    decode = Decoding(attachment.model, forward, 20)
    for _ in range(3):
        decode._token.fill_(7)
        decode()
    assert [lengths for lengths, _ in seen] == [[n, n + 1] for n in range(20 - gpu_model.STEPS, 20)] * 3
    first, last = seen[: gpu_model.STEPS], seen[-gpu_model.STEPS :]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, last, strict=True))


def test_random_weights_are_drawn_on_the_device_in_its_dtype() -> None:
    model, _ = scale.parts(scale.SMOKE, "meta")
    parameters = list(model.parameters())
    assert {parameter.device.type for parameter in parameters} == {"meta"}, "nothing passes through host memory"
    assert {parameter.dtype for parameter in parameters} == {torch.bfloat16}


def test_models_have_the_published_sizes() -> None:
    for name, billions in (("Llama-3-8B", 8.03), ("Llama-3.2-1B", 1.24)):
        model, adapter = scale.parts(gpu_model.CONFIGS[name], "meta")
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.01)
        assert len(adapter.config.knowledge_layers) == {"Llama-3-8B": 11, "Llama-3.2-1B": 6}[name]


def test_the_order_keeps_each_model_together() -> None:
    for cases in (gpu_model.QUICK, gpu_model.FULL):
        names = [case.model for case in cases]
        assert len(dict.fromkeys(names)) == sum(a != b for a, b in zip([None, *names], names, strict=False))
    assert Case("m", 5).name == "m model M5"
