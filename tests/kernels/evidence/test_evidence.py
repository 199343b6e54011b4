"""Attention mass per triple: exact, against what the attention itself did."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, UnsupportedInputError, evidence, knowledge_lse, top_evidence
from kblam_kernels.common import columns
from kblam_kernels.common.call import Saved
from kblam_kernels.common.tiles import select
from kblam_kernels.evidence import cpu
from kblam_kernels.evidence.op import evidence_mass
from kblam_kernels.evidence.tiles import TILES, MassTile, is_unrolled
from tests.kernels import ways
from tests.kernels.cases import SCORE_BIAS
from tests.kernels.problems import INF, EvidenceProblem, Problem, evidence_of, make, make_latent, through_sdpa
from tests.kernels.ways import Expected

BACKENDS = ["reference", "cpu", "triton"]
TOKEN_BIAS = torch.tensor([0.3, -INF, 1.5, 0.0, -2.0, 0.7, 0.1])
RANGES = torch.tensor([[0, 7], [2, 5]], dtype=torch.int32)
PADDED = torch.tensor([[False] * 4 + [True] * 5, [True] * 9])
PROBLEMS = [
    pytest.param(maker(**options), id=f"{maker.__name__}-{name}")
    for maker in (make, make_latent)
    for name, options in {
        "plain": {},
        "scale": {"scale": 0.6},
        "token-bias": {"knowledge_bias": TOKEN_BIAS},
        "range": {"knowledge_range": RANGES},
        "left-padded": {"N": 9, "prompt_mask": PADDED},
        "M0": {"M": 0},
    }.items()
] + [pytest.param(make(shared=False), id="make-per-row")]


def options_of(p: Problem) -> dict[str, Any]:
    return {"scale": p.scale, "knowledge_bias": p.knowledge_bias, "knowledge_range": p.knowledge_range}


def mass(p: Problem, lse: Tensor, **options: Any) -> Tensor:
    return evidence(p.knowledge_query, p.knowledge, lse, **options_of(p), **options)


def knowledge_level(p: Problem) -> Tensor:
    return knowledge_lse(p.knowledge_query, p.knowledge, **options_of(p))


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def weights_of(p: Problem) -> Tensor:
    """p[b, h, n, m] of PyTorch's own attention."""
    return through_sdpa(p).weights[..., : p.knowledge.num_tokens]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_shares_of_knowledge_and_prompt_sum_to_one(problem: Problem) -> None:
    _, lse = problem.run()
    query = problem.query
    nothing = problem.but(
        knowledge=DenseKnowledge.empty(query.shape[1], query.shape[3], dtype=query.dtype, device=query.device),
        knowledge_bias=0.0,
        knowledge_range=None,
    )
    seeing = lse > -INF
    prompt_share = (nothing.run()[1] - lse).exp().where(seeing, torch.zeros(()).double())
    total = mass(problem, lse).sum(-1) + prompt_share.sum((1, 2))
    close(total, seeing.sum((1, 2)).double())


@pytest.mark.parametrize("problem", PROBLEMS)
def test_knowledge_lse_is_the_share_that_went_to_knowledge(problem: Problem) -> None:
    _, lse = problem.run()
    share = (knowledge_level(problem) - lse).exp().where(lse > -INF, torch.zeros(()).double())
    close(share.sum((1, 2)), mass(problem, lse).sum(-1))


def test_nan_shows_in_the_lse_of_the_rows_that_see_it_and_in_no_other() -> None:
    key = torch.randn(2, 9, 4)
    key[1, 5, 2] = torch.nan
    ranges = torch.tensor([[0, 5], [0, 9]])
    lse = knowledge_lse(torch.randn(2, 2, 3, 4), DenseKnowledge(key, key), knowledge_range=ranges)
    assert lse[1, 1].isnan().all(), "-inf would say that these see no knowledge"
    assert lse[0].isfinite().all()
    assert lse[1, 0].isfinite().all()


def test_mass_is_the_derivative_of_lse_by_the_bias() -> None:
    p, step = make(), 1e-2
    measured = mass(p, p.run()[1])
    for m in range(7):
        bump = torch.zeros(7)
        bump[m] = step
        up, down = (p.but(knowledge_bias=sign * bump).run()[1].sum((1, 2)) for sign in (1, -1))
        close(measured[:, m], (up - down) / (2 * step), 1e-4)


def test_row_weight_chooses_heads_and_queries() -> None:
    p = make()
    _, lse = p.run()
    weights = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(1)).double()
    close(mass(p, lse, row_weight=weights), (weights_of(p) * weights[..., None]).sum((1, 2)))
    close(mass(p, lse, row_weight=torch.tensor([0.0, 1, 0, 0])[:, None]), weights_of(p)[:, 1].sum(1))
    close(mass(p, lse, row_weight=torch.tensor(1 / 20, dtype=torch.float64)), weights_of(p).mean((1, 2)))


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_chunks_change_nothing(problem: Problem, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, lse = problem.run()
    expected = mass(problem, lse), knowledge_level(problem)
    monkeypatch.setattr(columns, "CHUNK", chunk)
    close(mass(problem, lse), expected[0])
    close(knowledge_level(problem), expected[1])


def test_no_knowledge_has_no_mass() -> None:
    p = make(M=0)
    assert mass(p, p.run()[1]).shape == (2, 0)
    assert (knowledge_level(p) == -INF).all()


def test_a_hidden_triple_has_no_mass_and_hidden_knowledge_no_level() -> None:
    p = make(knowledge_bias=TOKEN_BIAS)
    assert (mass(p, p.run()[1])[:, 1] == 0).all()
    assert (knowledge_level(p.but(knowledge_bias=-INF)) == -INF).all()


def test_both_are_differentiable() -> None:
    p = make(B=1, N=2, M=4, knowledge_bias=TOKEN_BIAS[3:]).leaves()
    knowledge = DenseKnowledge(p.knowledge_key, p.knowledge_value)

    def level(query: Tensor, key: Tensor) -> Tensor:
        return knowledge_lse(query, DenseKnowledge(key, knowledge.value), knowledge_bias=TOKEN_BIAS[3:])

    def shares(query: Tensor, key: Tensor, lse: Tensor) -> Tensor:
        return evidence(query, DenseKnowledge(key, knowledge.value), lse, knowledge_bias=TOKEN_BIAS[3:])

    assert torch.autograd.gradcheck(level, [p.knowledge_query, p.knowledge_key])
    lse = p.run()[1].detach().requires_grad_()
    assert torch.autograd.gradcheck(shares, [p.knowledge_query, p.knowledge_key, lse])


@pytest.mark.parametrize("shape", [(7,), (2, 7)])
def test_a_bias_has_a_gradient(shape: tuple[int, ...]) -> None:
    bias = torch.randn(shape).requires_grad_()
    p = make(knowledge_bias=bias)
    shares = mass(p, p.run()[1].detach())
    along = torch.randn_like(shares)
    (found,) = torch.autograd.grad((shares * along).sum(), bias)
    # An exponential is its own derivative.
    close(found.double(), (shares * along).detach().sum_to_size(bias.shape), 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_gives_float32_masses(dtype: torch.dtype) -> None:
    p = make(M=300, D=64).to(dtype)
    exact = p.to(torch.float64)
    shares = mass(p, p.run()[1])
    assert shares.dtype == torch.float32
    close(shares.double(), mass(exact, exact.run()[1]), 1e-5)


@pytest.mark.parametrize("hidden", ["bias", "range"])
def test_a_row_that_sees_no_knowledge_has_a_gradient_of_zero(hidden: str) -> None:
    p = make(N=2).leaves()
    if hidden == "bias":
        p = p.but(knowledge_bias=torch.stack([torch.full((7,), -INF), TOKEN_BIAS]))
    else:
        p = p.but(knowledge_range=torch.tensor([[3, 3], [2, 5]]))
    level = knowledge_level(p)
    assert (level[0] == -INF).all()
    assert level[1].isfinite().all()
    # As a share of attention: exp(-inf) is 0.
    gradients = torch.autograd.grad(level.exp().sum(), [p.knowledge_query, p.knowledge_key])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[0][0] == 0).all()
    assert (gradients[0][1] != 0).any()


def test_knowledge_all_hidden_passes_no_gradient() -> None:
    p = make(knowledge_bias=-INF).leaves()
    for gradient in torch.autograd.grad(knowledge_level(p).sum(), [p.knowledge_query, p.knowledge_key]):
        assert (gradient == 0).all()


@pytest.mark.parametrize("far", [-200.0, 200.0])
@pytest.mark.parametrize("maker", [make, make_latent])
def test_levels_far_apart_are_exact(maker: Any, far: float) -> None:
    p = maker(knowledge_bias=far, dtype=torch.float32)
    exact = knowledge_level(p.but(knowledge_bias=0.0).to(torch.float64)) + far
    torch.testing.assert_close(knowledge_level(p).double(), exact, rtol=1e-6, atol=0)
    share = mass(p, p.run()[1]).sum(-1)
    torch.testing.assert_close(
        share, torch.full_like(share, p.query[0, :, :, 0].numel() * (far > 0)), rtol=1e-4, atol=0
    )


def test_the_best_come_first_and_hidden_triples_last() -> None:
    p = make(knowledge_bias=TOKEN_BIAS)
    _, lse = p.run()
    best, index = top_evidence(p.knowledge_query, p.knowledge, lse, 3, knowledge_bias=TOKEN_BIAS)
    expected = mass(p, lse).sort(descending=True)
    assert torch.equal(best, expected.values[:, :3])
    assert torch.equal(index, expected.indices[:, :3])
    best, index = top_evidence(p.knowledge_query, p.knowledge, lse, 100, knowledge_bias=TOKEN_BIAS)
    assert (index[:, -1] == 1).all()
    assert (best[:, -1] == 0).all()
    with pytest.raises(UnsupportedInputError, match="k must be at least 1; got 0"):
        top_evidence(p.knowledge_query, p.knowledge, lse, 0)


@pytest.mark.usefixtures("interpreted", "library")
@pytest.mark.parametrize("maker", [make, make_latent])
@pytest.mark.parametrize("backend", ["triton", "cpu"])
def test_every_backend_has_the_same_best(backend: str, maker: Any) -> None:
    problem = maker(N=1, M=70, dtype=torch.float32)
    _, lse = problem.run()
    arguments = (problem.knowledge_query, problem.knowledge, lse, 4)
    best, index = top_evidence(*arguments, backend=backend)
    plain, plain_index = top_evidence(*arguments, backend="reference")
    assert torch.equal(index, plain_index)
    torch.testing.assert_close(best, plain)


def test_a_gradient_of_row_weight_is_refused() -> None:
    p = make()
    with pytest.raises(UnsupportedInputError, match=r"row_weight\.detach"):
        mass(p, p.run()[1], row_weight=torch.ones(1, requires_grad=True))


def test_without_gradients_row_weight_may_be_one_that_learns() -> None:
    p, weight = make(), torch.ones(1, requires_grad=True)
    with torch.no_grad():
        assert torch.equal(mass(p, p.run()[1], row_weight=weight), mass(p, p.run()[1]))


# By what the message says of it: where it is.
OF_LATENTS = {
    "knowledge_query or the projection's key_weight": ("knowledge_query", "key_weight"),
    "knowledge_query or the projection's key_bias": ("key_bias",),
    "the latents' key": ("key",),
    "norm": ("norm",),
    "key_scale": ("key_scale",),
    "lse": ("lse",),
    "knowledge_bias": ("knowledge_bias",),
}


@pytest.mark.parametrize(("said", "name"), [(said, name) for said, names in OF_LATENTS.items() for name in names])
def test_a_gradient_through_latents_is_refused(said: str, name: str) -> None:
    problem = make_latent(storage=torch.float16 if name == "key" else torch.int8, dtype=torch.float32)
    _, lse = problem.run()
    k = problem.knowledge
    options = {"lse": lse, "knowledge_query": problem.knowledge_query, "knowledge_bias": torch.zeros(7)}

    def learns(tensor: Tensor) -> Tensor:
        return tensor.clone().requires_grad_()

    if name in options:
        options[name] = learns(options[name])
    elif hasattr(k, name):
        k = dataclasses.replace(k, **{name: learns(getattr(k, name))})
    else:
        projection = dataclasses.replace(k.projection, **{name: learns(getattr(k.projection, name))})
        k = dataclasses.replace(k, projection=projection)
    with pytest.raises(UnsupportedInputError, match=f"of latents has no gradient and {said} requires.*torch.no_grad"):
        evidence(knowledge=k, **options)
    with torch.no_grad():
        evidence(knowledge=k, **options)


def test_a_projection_of_other_heads_is_refused() -> None:
    problem = make_latent()
    with pytest.raises(UnsupportedInputError, match="projection is for 4 heads of width 16"):
        evidence(problem.knowledge_query[:, :2], problem.knowledge, problem.run()[1][:, :2])


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float16, torch.bfloat16], ids=str)
def test_stored_latents_are_taken_as_they_are(dtype: torch.dtype) -> None:
    own = make_latent(M=20, dtype=torch.float32)
    problem = own.to(torch.float32, dtype)
    _, lse = problem.run()
    ours, theirs = (
        evidence(problem.knowledge_query, knowledge, lse)
        for knowledge in (problem.knowledge, problem.knowledge.to_dense())
    )
    close(ours, theirs, 1e-4)
    assert not torch.allclose(ours, evidence(problem.knowledge_query, own.knowledge, lse), rtol=1e-5, atol=0)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    "tile", [MassTile(16, 16, 4, 1, 16, 9), MassTile(64, 64, 4, 1, 16, 1)], ids=["small", "chunk-by-chunk"]
)
@pytest.mark.parametrize("maker", [make, make_latent])
def test_other_tiles_give_the_same(maker: Any, tile: MassTile) -> None:
    from kblam_kernels.evidence import triton_mass

    width = {"D": 40} if maker is make else {"P": 40}
    problem = evidence_of(maker(B=1, H=2, G=1, N=5, M=70, **width, knowledge_bias=SCORE_BIAS, dtype=torch.float32))
    (found,) = triton_mass.forward(problem.call()[1], tile)
    ways.check_mass((found,), Expected(problem, problem.exact(), problem.run()), False)


@pytest.mark.parametrize(
    ("rows", "precision", "tile"),
    [
        (1, "half", "16x32x4x3"),
        (16, "half", "16x32x4x3"),
        (17, "half", "32x32x4x2"),
        (32, "half", "32x32x4x2"),
        (33, "half", "64x32x4x2"),
        (1, "float32", "16x32x4x2"),
        (1000, "float32", "16x32x4x2"),
    ],
)
def test_the_tile_of_so_many_rows(rows: int, precision: Any, tile: str) -> None:
    assert {str(select(TILES, arch, precision, 128, rows)) for arch in ("sm_80", "sm_86", "sm_90")} == {tile}


def test_narrow_rows_are_fetched_whole() -> None:
    assert [is_unrolled(width, select(TILES, "sm_80", "half", width, 32)) for width in (384, 400)] == [True, False]
    assert [is_unrolled(width, select(TILES, "sm_80", "float32", width)) for width in (128, 384)] == [True, False]


def test_evidence_on_the_cpu_is_served_by_the_cpp_kernels(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    real = cpu.forward
    monkeypatch.setattr(cpu, "forward", lambda call: (calls.append(call), real(call))[1])
    evidence_of(make(dtype=torch.float32)).run("auto")
    assert len(calls) == 1


def test_a_list_of_each_row_with_one_entry_is_a_list_of_the_batch() -> None:
    p = make(shared=False, B=1)
    _, lse = p.run()
    shared = dataclasses.replace(p, knowledge=DenseKnowledge(p.knowledge_key[0], p.knowledge_value[0]))
    close(mass(p, lse), mass(shared, lse))


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("way", [SimpleNamespace(backend=name) for name in ("triton", "cpu")], ids=["triton", "cpu"])
def test_norm_and_scale_may_be_columns_of_a_matrix(way: SimpleNamespace) -> None:
    problem = evidence_of(make_latent(N=1, M=40, dtype=torch.float32, storage=torch.int8))
    k = problem.attention.knowledge
    columns = torch.full((40, 3), torch.nan)
    changed = {name: columns[:, i].copy_(getattr(k, name)) for i, name in enumerate(("norm", "key_scale"))}
    strided = problem.but(knowledge=dataclasses.replace(k, **changed))
    assert torch.equal(strided.run(way.backend)[0], problem.run(way.backend)[0])


def test_no_gradient_is_made_that_nobody_asked_for() -> None:
    problem = evidence_of(make(knowledge_bias=TOKEN_BIAS))
    _, call = problem.call()
    results = evidence_mass.named("reference").forward(call)
    given = tuple(torch.ones_like(result) for result in results)
    all_of_them = evidence_mass.named("reference").backward(
        call, Saved(results, given, call.DIFFERENTIABLE, "reference")
    )
    for name in call.DIFFERENTIABLE:
        found = evidence_mass.named("reference").backward(call, Saved(results, given, (name,), "reference"))
        assert list(found) == [name]
        assert torch.equal(found[name], all_of_them[name])


def _left_out(problem: EvidenceProblem, weights: Tensor) -> tuple[EvidenceProblem, EvidenceProblem]:
    """A problem with these weights, and the same with NaN and infinity in what they leave out."""
    p = dataclasses.replace(problem, row_weight=weights)
    row, out = torch.arange(weights.numel()).view(weights.shape), weights == 0
    poison = torch.tensor([torch.nan, INF], dtype=p.lse.dtype)[row % 2]
    query = torch.where(out[..., None], poison[..., None].to(p.query.dtype), p.query)
    # Of some the lse too: where that is NaN, what is exponentiated does not show.
    return p, dataclasses.replace(p.but(knowledge_query=query), lse=torch.where(out & (row % 7 < 2), poison, p.lse))


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("way", [SimpleNamespace(backend=name) for name in BACKENDS], ids=BACKENDS)
@pytest.mark.parametrize("maker", [make, make_latent])
def test_a_row_of_weight_0_is_left_out_whatever_it_holds(maker: Any, way: Any, dtype: torch.dtype) -> None:
    problem = evidence_of(maker(N=3, M=40, dtype=dtype))
    weights = problem.row_weight.masked_fill(torch.arange(24).view(2, 4, 3) % 5 < 3, 0.0)
    weights[1, 2] = 0.0  # of a head nothing counts
    whole, poisoned = _left_out(problem, weights)
    found, before = poisoned.run(way.backend)[0], whole.run(way.backend)[0]
    assert before.isfinite().all()
    torch.testing.assert_close(found, before, rtol=1e-6, atol=1e-7)
    assert (_left_out(problem, torch.zeros_like(weights))[1].run(way.backend)[0] == 0).all()


def test_a_row_of_weight_0_has_a_gradient_of_zero_whatever_it_holds() -> None:
    problem = evidence_of(make(N=3, knowledge_bias=TOKEN_BIAS))
    weights = problem.row_weight.masked_fill(torch.arange(24).view(2, 4, 3) % 5 < 3, 0.0)
    gradients = []
    for p in _left_out(problem, weights):
        leaves = p.leaves()
        a = leaves.attention
        inputs = (a.knowledge_query, a.knowledge_key, a.knowledge_bias, leaves.lse)
        gradients.append(torch.autograd.grad(leaves.run()[0].square().sum(), inputs))
    for ours, theirs in zip(*gradients, strict=True):
        close(ours, theirs)
    assert (gradients[0][0][weights == 0] == 0).all()


@pytest.mark.usefixtures("library")
def test_no_heads_are_no_mass() -> None:
    nothing = DenseKnowledge(torch.zeros(0, 5, 64), torch.zeros(0, 5, 64))
    masses = evidence(torch.zeros(1, 0, 1, 64), nothing, torch.zeros(1, 0, 1), backend="cpu")
    assert torch.equal(masses, torch.zeros(1, 5))
