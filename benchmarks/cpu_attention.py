"""Attention to M knowledge tokens on the CPU: ours beside what PyTorch users have, and the ceilings of the same run.

    python -m benchmarks.cpu_attention [--quick] [--threads N] [--json FILE]

Every repeat times each provider once, in turn, so that a change of the machine's load touches all of them; the median
is reported. Ceilings: a read over the same bytes (decode), a matrix product of the same size (prefill).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kblam_kernels import DenseKnowledge, native, rectangular_attention

HEADS, PROMPT_HEADS, HEAD_DIM, CACHED = 32, 8, 128, 64
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def inputs(N: int, M: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """One batch row of the Llama-3-8B shape: N new tokens after CACHED, M knowledge tokens."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(dtype)

    T = CACHED + N
    return {
        "query": normal(1, HEADS, N, HEAD_DIM),
        "key": normal(1, PROMPT_HEADS, T, HEAD_DIM),
        "value": normal(1, PROMPT_HEADS, T, HEAD_DIM),
        "kappa": normal(HEADS, M, HEAD_DIM),
        "nu": normal(HEADS, M, HEAD_DIM),
        "r": normal(1, HEADS, N, HEAD_DIM),
    }


def peers(x: dict[str, Tensor]) -> dict[str, Callable[[], Tensor]]:
    """What is timed. Concatenated keys and values are made outside: a peer pays for its attention only.

    One call on concatenated columns cannot take two queries; those peers use the knowledge query for both blocks.
    """
    N, M, T = x["query"].shape[2], x["kappa"].shape[1], x["key"].shape[2]
    knowledge = DenseKnowledge(x["kappa"], x["nu"])
    key, value = (t.repeat_interleave(HEADS // PROMPT_HEADS, 1) for t in (x["key"], x["value"]))
    keys, values = torch.cat([x["kappa"][None], key], 2), torch.cat([x["nu"][None], value], 2)
    visible = torch.ones(N, M + T, dtype=torch.bool)
    visible[:, M:] = torch.ones(N, T, dtype=torch.bool).tril(T - N)
    mask = None if N == 1 else visible
    additive = torch.zeros(N, M + T, dtype=x["r"].dtype).masked_fill(~visible, float("-inf"))
    causal = None if N == 1 else additive[:, M:].expand(1, HEADS, N, T)
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def eager() -> Tensor:
        scores = x["r"] @ keys.mT * HEAD_DIM**-0.5
        return torch.softmax(scores + additive, -1, dtype=torch.float32).to(scores.dtype) @ values

    def two_calls() -> Tensor:
        output, lse = flash(x["r"], x["kappa"][None], x["nu"][None])
        prompt, prompt_lse = flash(x["query"], key, value, attn_mask=causal)
        share = torch.sigmoid(lse - prompt_lse)[..., None].to(output.dtype)
        return output * share + prompt * (1 - share)

    return {
        "ours": lambda: rectangular_attention(x["query"], x["key"], x["value"], knowledge, x["r"], backend="cpu"),
        "sdpa": lambda: F.scaled_dot_product_attention(x["r"], keys, values, mask),
        "two calls and merge": two_calls,
        "eager": eager,
    }


def ceilings(x: dict[str, Tensor]) -> dict[str, Callable[[], Any]]:
    """The least time for the same work: its bytes read once, and its two products alone."""
    as_words = [x[name].view(torch.int32) if x[name].dtype != torch.float32 else x[name] for name in ("kappa", "nu")]
    rows, columns = x["r"][0], x["kappa"].mT

    def products() -> None:
        torch.bmm(torch.bmm(rows, columns), x["nu"])

    return {"read": lambda: [words.max() for words in as_words], "products": products}


def timed(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each, measured in turns after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if repeat:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(of) for name, of in times.items()}


def measure(N: int, M: int, dtype_name: str, repeats: int) -> list[dict[str, Any]]:
    """Rows of the table for one shape; checks first that ours and the merged peer agree."""
    x = inputs(N, M, DTYPES[dtype_name])
    tried, limits = peers(x), ceilings(x)
    torch.testing.assert_close(tried["ours"]().float(), tried["two calls and merge"]().float(), rtol=3e-2, atol=1e-2)
    times = timed({**tried, **{f"ceiling {name}": f for name, f in limits.items()}}, repeats)
    best_peer = min(times[name] for name in tried if name != "ours")
    # Work that must be done: every byte read, or every product made, whichever takes longer.
    floor = times["ceiling read"] if N == 1 else max(times["ceiling read"], times["ceiling products"])
    return [
        {
            "regime": "decode" if N == 1 else "prefill",
            "provider": name,
            "triples": M,
            "queries": N,
            "dtype": dtype_name,
            "ms": round(ms, 3),
            "ratio_to_best_peer": round(best_peer / ms, 3),
            "share_of_ceiling": round(floor / ms, 3),
        }
        for name, ms in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer shapes and repeats")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reason = native.unavailable()
    if reason is not None:
        raise SystemExit(reason)
    print(f"{native.instruction_set()}, {options.threads} threads, torch {torch.__version__}")
    shapes = [(1, 1_000), (1, 10_000), (128, 10_000)]
    if not options.quick:
        shapes += [(1, 100_000), (16, 10_000), (512, 10_000), (2048, 10_000)]
    rows: list[dict[str, Any]] = []
    print(
        f"{'queries':>8} {'triples':>8} {'dtype':>9} {'provider':>20} {'ms':>10} {'x best peer':>12} {'of ceiling':>11}"
    )
    for N, M in shapes:
        for dtype in DTYPES:
            for row in measure(N, M, dtype, 3 if options.quick or N * M > 2_000_000 else 9):
                rows.append(row)
                print(
                    f"{N:8} {M:8} {dtype:>9} {row['provider']:>20} {row['ms']:10.2f} "
                    f"{row['ratio_to_best_peer']:12.2f} {row['share_of_ceiling']:11.2f}",
                    flush=True,
                )
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
