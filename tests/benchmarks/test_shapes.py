"""What is measured: the work of a shape, and which shapes a run has, in which order."""

from __future__ import annotations

from benchmarks import gpu_bench
from kblam.bench import shapes


def test_operations_and_bytes_of_a_shape() -> None:
    shape = shapes.Shape(shapes.Model("m", 2, 1, 4, 6), "prefill", 3, 2, 5, 7)
    # Visible pairs of a head: query 0 sees 4 prompt columns, query 1 sees 5, each sees 7 knowledge tokens.
    pairs, rows = 3 * 2 * (4 + 5), 3 * 2 * 2
    assert shape.dense_work.flops == 4 * 4 * (pairs + rows * 7)
    # Query and output, keys and values, knowledge.
    assert shape.dense_work.bytes_moved(2) == 2 * 4 * (2 * rows + 2 * 15 + 2 * 14)
    assert shape.latent_work.flops == 4 * 4 * pairs + 4 * 6 * rows * 7 + 4 * 4 * 6 * rows
    # Both weights, and one copy of the latents with a norm each.
    assert shape.latent_work.bytes_moved(2) == 2 * (4 * (2 * rows + 2 * 15) + 2 * 2 * 4 * 6 + 2 * 7 * 6) + 4 * 7
    # A byte a number, and two scales more.
    assert shape.quantised_work.flops == shape.latent_work.flops
    assert shape.quantised_work.bytes_moved(2) == shape.latent_work.bytes_moved(2) - 2 * 7 * 6 + 8 * 7
    # Keys and values of two heads made from latents of 6, by both weights.
    assert shape.materialise_work.flops == shape.dense_work.flops + 2 * 2 * 7 * 2 * 4 * 6
    made = 2 * (2 * 7 * 6 + 2 * 2 * 4 * 6 + 2 * 2 * 7 * 4) + 4 * 7
    assert shape.materialise_work.bytes_moved(2) == shape.dense_work.bytes_moved(2) + made
    assert shape.dense_evidence_work.bytes_moved(2) == 2 * 4 * (rows + 14) + 4 * 3 * 7
    assert shape.latent_evidence_work.bytes_moved(2) == 2 * (4 * rows + 2 * 4 * 6 + 7 * 6) + 4 * 7 * (1 + 3)


def test_the_registry_covers_models_batches_and_sizes() -> None:
    registry = list(shapes.gpu_all())
    assert len({shape.name for shape in registry}) == len(registry)
    for model in (shapes.MODELS[name] for name in shapes.ON_GPU):
        decode = {(shape.B, shape.M) for shape in registry if shape.model == model and shape.phase == "decode"}
        sizes = (1_000, 10_000, 100_000)
        assert decode == {(B, M) for B in (1, 8, 32) for M in (*sizes, 1_000_000)}
        prefill = {(shape.B, shape.M) for shape in registry if shape.model == model and shape.phase == "prefill"}
        assert prefill == {(B, M) for B in (1, 8, 32) for M in sizes} | {(1, 1_000_000)}
    assert all(shape.N == shape.T >= 256 for shape in registry if shape.phase == "prefill")


def test_a_quick_run_begins_with_decode_and_holds_what_tells_most() -> None:
    parts = list(gpu_bench.parts(quick=True, tiny=False))
    order = [(p.phase, p.B, p.N, p.M) if isinstance(p, shapes.Shape) else p.name for p in parts]
    assert order == [
        *(("decode", B, 1, M) for B, M in ((1, 10_000), (1, 100_000), (1, 1_000_000), (8, 10_000), (32, 10_000))),
        "Llama-3-8B model M10000",
        "Llama-3.2-1B model M10000",
        ("prefill", 1, 1024, 10_000),
        ("prefill", 1, 4096, 10_000),
        ("question", 1, 32, 10_000),
        ("evidence", 1, 1, 10_000),
        ("evidence", 1, 1, 1_000_000),
    ]
    everything = [part.name for part in gpu_bench.parts(quick=False, tiny=False)]
    assert len(set(everything)) == len(everything)
    assert {part.name for part in parts} <= set(everything)
    assert "Llama-3-8B model M1000000" in everything
