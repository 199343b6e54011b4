"""Latents read as keys and values, a piece of the list at a time: attention, evidence and gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from kblam_kernels import knowledge
from kblam_kernels.knowledge import DenseKnowledge, LatentKnowledge
from tests.kernels.cases import LATENT
from tests.kernels.dense.test_backward import by_autograd, close
from tests.kernels.problems import Problem, evidence_of, make_latent

CASES = (
    *("several-new-tokens", "M0", "no-cache", "left-padded", "scattered-window", "empty-and-reversed-ranges"),
    *("token-bias", "row-bias", "scalar-bias-scale", "all-hidden", "knowledge-far-above-left-padded", "no-end"),
)


@pytest.fixture(params=[2**30, 50_000], ids=["whole", "pieces"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the whole list, and of 48 tokens."""
    monkeypatch.setattr(knowledge, "PIECE_BYTES", request.param)


def materialised(problem: Problem) -> Problem:
    return problem.but(knowledge=dataclasses.replace(problem.knowledge, materialised=True))


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("name", CASES)
def test_pieces_are_the_whole(name: str) -> None:
    problem = make_latent(**{**LATENT[name], "M": LATENT[name].get("M", 100)})
    masses = evidence_of(problem)
    ours = (*materialised(problem).run(), *dataclasses.replace(masses, attention=materialised(problem)).run())
    for found, expected in zip(ours, (*problem.run(), *masses.run()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_autograd(name: str) -> None:
    problem = make_latent(**LATENT[name])
    close(problem.gradients(), by_autograd(problem), problem.differentiable)
    close(materialised(problem).gradients(), by_autograd(problem), problem.differentiable)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("storage", [torch.int8, torch.bfloat16], ids=str)
def test_the_cpp_kernels_read_pieces(storage: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge, "PIECE_BYTES", 25_000)
    problem = materialised(make_latent(N=20, T=20, M=100, dtype=torch.float32, storage=storage))
    for found, expected in zip(problem.run("cpu"), problem.run(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("interpreted")
def test_triton_differentiates_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge, "PIECE_BYTES", 1024)
    problem = make_latent(B=1, H=1, G=1, N=2, T=2, M=9, knowledge_bias=torch.randn(9), dtype=torch.float32)
    found = problem.gradients(backend="triton")
    for name, ours, exact in zip(problem.differentiable, found, by_autograd(problem), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4, msg=f"gradient of {name}")


def test_one_piece_is_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import weakref

    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    to_dense = LatentKnowledge.to_dense

    def noted(latents: LatentKnowledge) -> DenseKnowledge:
        alive.append(sum(ref() is not None for ref in made))
        dense = to_dense(latents)
        made.append(weakref.ref(dense.key))
        return dense

    monkeypatch.setattr(knowledge, "PIECE_BYTES", 50_000)
    monkeypatch.setattr(LatentKnowledge, "to_dense", noted)
    problem = materialised(make_latent(M=200))
    problem.run()
    assert len(made) == 5
    problem.gradients()
    assert alive == [0] * len(made)
