"""The launches for compute-sanitizer, in the interpreter: they must not fail for another reason than memory."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import sanitize_shapes
from kblam_kernels.dense import triton_backward, triton_forward
from tests.kernels.cases import Case


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="TRITON_INTERPRET=0: kernels are compiled")
def test_latents_of_every_storage_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitize_shapes, "LATENT_WIDTHS", (37,))
    monkeypatch.setattr(sanitize_shapes, "STORAGE", (torch.int8, torch.float16))
    assert list(sanitize_shapes.latents("cpu")) == ["latents of 37 in torch.int8", "latents of 37 in torch.float16"]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="TRITON_INTERPRET=0: kernels are compiled")
def test_scores_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitize_shapes, "EVIDENCE", {"small": {"N": 1, "M": 5, "D": 16}})
    monkeypatch.setattr(sanitize_shapes, "STORAGE", (torch.int8,))
    names = list(sanitize_shapes.scores("cpu"))
    assert names == [
        f"scores of {what}"
        for dtype in ("bfloat16", "float32")
        for what in (f"dense small in torch.{dtype}", "latents in torch.int8")
    ]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="TRITON_INTERPRET=0: kernels are compiled")
def test_gradients_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    launch = triton_backward.launch

    def noted(kernel: Any, *arguments: Any, **options: Any) -> None:
        launched.append(kernel.__name__)
        launch(kernel, *arguments, **options)

    monkeypatch.setattr(triton_backward, "launch", noted)
    monkeypatch.setattr(sanitize_shapes, "GRID", (Case(1, 3, 5, 16),))
    assert list(sanitize_shapes.gradients("cpu")) == ["gradients of B1-N3-M5-D16"]
    assert set(launched) == {"dense_backward_rows_kernel", "dense_backward_columns_kernel"}


@pytest.mark.parametrize("case", sanitize_shapes.LONG, ids=lambda case: case.name)
def test_long_prompts_are_those_of_hoppers_own_kernel(case: Case) -> None:
    assert triton_forward.is_for_hopper(case.problem(torch.bfloat16).call()[1], "sm_90")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a CUDA device")
def test_without_a_gpu_nothing_is_said_to_be_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert sanitize_shapes.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        sanitize_shapes.main(["--part", "everything"])
    assert "invalid choice: 'everything' (choose from" in capsys.readouterr().err
