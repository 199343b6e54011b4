"""What it costs to hold latents in fewer bits: `python -m benchmarks.latent_accuracy [--demo] [--json FILE]`.

Random data of the Llama-3-8B shape, against float64 on the latents before they were rounded (the cost of storing) and
on the latents as stored (the error of the kernel); with --demo, the answers of the shipped model. No timing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.options import at_least, check, document
from kblam.bench.output import write_json
from kblam_kernels import BackendUnavailableError, LatentKnowledge, rectangular_attention
from kblam_kernels.knowledge import SCALED_DTYPES, LatentProjection, dequantise
from kblam_kernels.latent import AbsorbedAdapter, absorb, quantise
from kblam_kernels.latent.absorption import absorb_query
from tests.tolerances import relative_error

HEADS, PROMPT_HEADS, HEAD_DIM, WIDTH, CACHED = 32, 8, 128, 384, 64
STORAGE = (torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BACKENDS = ("triton", "cpu", "reference")
# Standard deviation of the knowledge scores: as of random weights, and as of a model that looks for one triple.
SPREADS = {"flat": 1.0, "peaked": 4.0}
# What `attach` is asked for; the others are compared with the first.
DEMO_ROWS: tuple[dict[str, Any], ...] = (
    *({"storage": storage} for storage in ("float32", "float16", "bfloat16", "int8", "float8_e4m3fn")),
    {"storage": "int8", "int8_products": True},
)


@dataclass(frozen=True)
class Error:
    """Errors of one way to hold and to compute; `kernel` and `stored` are over the exact output's root mean square.

    Args:
        backend: what computed.
        dtype, storage: of the model and of the latents.
        products: "exact", or "int8" where int8 latents were multiplied as int8.
        spread: of the scores, a key of SPREADS.
        kernel: largest error of the output against float64 on the latents as stored.
        stored: root mean square error of the output against float64 on the latents before they were stored.
        lse: largest error of the lse, against float64 on the latents before they were stored.
        top1: share of heads whose heaviest triple is the exact one.
    """

    backend: str
    dtype: str
    storage: str
    products: str
    spread: str
    kernel: float
    stored: float
    lse: float
    top1: float


@dataclass(frozen=True)
class Data:
    """Float64 arguments of one decode step."""

    query: Tensor
    key: Tensor
    value: Tensor
    knowledge_query: Tensor
    latent_key: Tensor
    latent_value: Tensor
    adapter: AbsorbedAdapter
    scale: float


def draw(tokens: int, spread: float, width: int = WIDTH, heads: int = HEADS) -> Data:
    """Unit-norm latents, as sentence encoders give them, a random adapter, random queries; seeded."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    groups = max(heads * PROMPT_HEADS // HEADS, 1)
    outputs = heads * HEAD_DIM
    weights = (normal(outputs, width), 0.1 * normal(outputs), normal(outputs, width), 0.1 * normal(outputs))
    adapter = absorb(*weights, num_slots=1, num_heads=heads, head_dim=HEAD_DIM)
    shapes = ((heads, 1), (groups, CACHED), (groups, CACHED), (heads, 1))
    query, key, value, knowledge_query = (normal(1, *shape, HEAD_DIM) for shape in shapes)
    latent_key, latent_value = (torch.nn.functional.normalize(normal(tokens, width), dim=1) for _ in range(2))
    return Data(query, key, value, knowledge_query, latent_key, latent_value, adapter, spread * HEAD_DIM**-0.5)


def knowledge_of(data: Data, dtype: torch.dtype, storage: torch.dtype) -> LatentKnowledge:
    """The latents as a model of `dtype` holds them, with the norms of what is stored; float64 is not rounded."""
    p = data.adapter.slots[0]
    weights = (w.to(dtype) for w in (p.key_weight, p.key_bias, p.value_weight, p.value_bias))
    if storage == torch.float64:
        weights = (w.double() for w in weights)
    projection = LatentProjection(*weights)
    if storage in SCALED_DTYPES:
        (key, key_scale), (value, value_scale) = (quantise(t, storage) for t in (data.latent_key, data.latent_value))
        norm = data.adapter.key_norm(key, key_scale)
        return LatentKnowledge(key, value, norm, projection, key_scale, value_scale)
    key, value = data.latent_key.to(storage), data.latent_value.to(storage)
    return LatentKnowledge(key, value, data.adapter.key_norm(key), projection)


def in_float64(knowledge: LatentKnowledge) -> LatentKnowledge:
    """Exactly what `knowledge` stands for."""
    p = knowledge.projection
    weights = (p.key_weight, p.key_bias, p.value_weight, p.value_bias)
    key = dequantise(knowledge.key, knowledge.key_scale, torch.float64)
    value = dequantise(knowledge.value, knowledge.value_scale, torch.float64)
    return LatentKnowledge(key, value, knowledge.norm.double(), LatentProjection(*(w.double() for w in weights)))


def attend(
    data: Data, dtype: torch.dtype, knowledge: LatentKnowledge, backend: str, products: str = "exact"
) -> tuple[Tensor, Tensor]:
    """(output, lse) of the step in `dtype`."""
    query, key, value, r = (t.to(dtype) for t in (data.query, data.key, data.value, data.knowledge_query))
    options: dict[str, Any] = {"scale": data.scale, "int8_products": products == "int8", "backend": backend}
    return rectangular_attention(query, key, value, knowledge, r, return_lse=True, **options)


def heaviest(data: Data, knowledge: LatentKnowledge) -> Tensor:
    """Index of each head's largest knowledge score, in float64."""
    p = knowledge.projection
    absorbed_query, constant = absorb_query(data.knowledge_query, p.key_weight, p.key_bias)
    return ((absorbed_query @ knowledge.key.T + constant[..., None]) * knowledge.norm).argmax(-1)


def errors(data: Data, spread: str, backends: tuple[str, ...] = BACKENDS) -> Iterator[Error]:
    """One row for each model dtype, storage and backend that can run here."""
    for dtype in DTYPES:
        # Queries, cache and projections are those of the model, rounded to its dtype, throughout.
        names = ("query", "key", "value", "knowledge_query")
        rounded = replace(data, **{name: getattr(data, name).to(dtype).double() for name in names})
        whole = in_float64(knowledge_of(data, dtype, torch.float64))
        exact, exact_lse = attend(rounded, torch.float64, whole, "reference")
        for storage in (dtype, *(storage for storage in STORAGE if storage != dtype)):
            held = knowledge_of(data, dtype, storage)
            as_stored = in_float64(held)
            stored, _ = attend(rounded, torch.float64, as_stored, "reference")
            same = heaviest(rounded, as_stored) == heaviest(rounded, whole)
            runs = [(backend, "exact") for backend in backends]
            if storage == torch.int8 and "cpu" in backends:
                runs.append(("cpu", "int8"))
            for backend, products in runs:
                try:
                    output, lse = attend(rounded, dtype, held, backend, products)
                except BackendUnavailableError:
                    continue
                yield Error(
                    backend,
                    dtype=str(dtype).removeprefix("torch."),
                    storage=str(storage).removeprefix("torch."),
                    products=products,
                    spread=spread,
                    kernel=relative_error(output, stored),
                    stored=((output.double() - exact).norm() / exact.norm()).item(),
                    lse=(lse.double() - exact_lse).abs().max().item(),
                    top1=same.double().mean().item(),
                )


def demo_rows(triples: int, questions: int) -> Iterator[dict[str, object]]:
    """How the shipped model answers with latents of each storage, beside exact float32 ones."""
    from kblam.demo.tiny.assets import load
    from kblam.demo.tiny.quiz import demo_quiz
    from kblam.demo.tiny.tokenizer import real_words
    from kblam.demo.tiny.world import build_world
    from kblam.evaluation.figures import score
    from kblam.evaluation.loop import answer_quiz, triples_of
    from kblam.knowledge import KnowledgeBase, load_encoder
    from kblam.models import attach

    demo = load()
    quiz = demo_quiz(build_world(real_words()).test_grid, triples, questions=questions)
    plain = None
    with KnowledgeBase.from_triples(triples_of(quiz), load_encoder("minilm")) as knowledge_base:
        for asked in DEMO_ROWS:
            attachment = attach(demo.model, demo.attachment.adapter, plan="latent", **asked)
            outcomes = answer_quiz(demo, knowledge_base, quiz)
            plain = plain or outcomes
            figures = score(quiz.questions, outcomes)
            yield {
                "triples": triples,
                "questions": questions,
                "storage": asked["storage"],
                "products": "int8" if attachment.options.int8_products else "exact",
                "exact": figures.exact,
                "top1": figures.top1,
                "refusal_f1": figures.refusal_f1,
                "answers_changed": sum(a.text != b.text for a, b in zip(outcomes, plain, strict=True)),
                "evidence_changed": sum(a.best != b.best for a, b in zip(outcomes, plain, strict=True)),
            }


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latent_accuracy", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tokens", type=at_least(1), default=10_000, help="triples of the random data")
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--demo", action="store_true", help="ask the shipped model too")
    parser.add_argument("--triples", type=at_least(1), nargs="+", default=[1000], help="of the demo's knowledge bases")
    parser.add_argument("--questions", type=at_least(1), default=100, help="for each of them")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    check(parser, options.json)
    rows: list[dict[str, object]] = []

    def add(row: dict[str, object]) -> None:
        if not rows or rows[-1].keys() != row.keys():
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row), flush=True)
        rows.append(row)
        cells = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values())
        print("| " + " | ".join(cells) + " |", flush=True)

    for spread, deviation in SPREADS.items():
        data = draw(options.tokens, deviation)
        for error in errors(data, spread, tuple(options.backends)):
            add(asdict(error))
    if not rows:
        parser.error(
            f"--backends: {', '.join(options.backends)} cannot run here; `python -m kblam_kernels env` says why"
        )
    if options.demo:
        for triples in options.triples:
            for row in demo_rows(triples, options.questions):
                add(row)
    if options.json:
        write_json(document(options, rows=rows), options.json)


if __name__ == "__main__":
    main()
