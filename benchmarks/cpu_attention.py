"""`kblam bench` without the rest of kblam: `python -m benchmarks.cpu_attention [--quick] [--threads N] [--json FILE]`.

What is measured, against whom and how is in `kblam_kernels/bench`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.output import write_json
from kblam_kernels.bench import FULL, QUICK, Row, measure
from kblam_kernels.common import native


def main(arguments: list[str] | None = None) -> int:
    """Prints the rows as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer shapes and repeats")
    parser.add_argument("--no-flex", action="store_true", help="without compiled FlexAttention, which compiles a while")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, torch {torch.__version__}")
    print(f"{'queries':>8}{'triples':>10}{'dtype':>10}{'provider':>22}{'ms':>11}{'x best peer':>13}{'of ceiling':>12}")
    rows: list[Row] = []
    for shape in QUICK if options.quick else FULL:
        for row in measure(shape, repeats=5 if options.quick else 15, flex=not options.no_flex):
            rows.append(row)
            print(
                f"{row['queries']:8}{row['triples']:10}{row['dtype']:>10}{row['provider']:>22}{row['ms']:11.3f}"
                f"{row['ratio_to_best_peer']:13.2f}{row['share_of_ceiling']:12.2f}",
                flush=True,
            )
    print(f"{native.instruction_set()} kernels")
    if options.json is not None:
        write_json(rows, options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
