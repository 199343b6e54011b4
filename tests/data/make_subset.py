"""Makes the golden data that ships with the tests from a full directory of the same format.

    python tests/data/make_subset.py FULL tests/data/golden [CONFIGURATION ...]

Keeps, of each configuration, of the kernel and of the encoder cases, small files that together show every value of
every setting; of the pool of knowledge the rows these cases use; of the weights those that something reads.
Cases that are too large for a repository are left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Case = dict[str, Any]
# Bytes. A case is left out if its file, or its file and the entries of the pool it adds, are larger.
LARGEST_FILE, LARGEST = 50_000, 100_000


def model_settings(case: Case) -> set[Any]:
    """What a model case shows."""
    options, kind = case["kb_config"], case["kind"]
    if kind == "no_kb":
        return {(kind, case["hf_equal"])}
    single = {
        "head": options["sep_query_head"],
        "scale": options["kb_scale_factor"] is None,
        "batched": case["kb_batched"],
        "pruned": (options.get("top_k_kb", case["M"]) < case["M"], options["sep_query_head"]),
        "M": min(case["M"], 2),
        "B": min(case["B"], 2),
        "padding": case["padding"] if kind != "sparsify" else case["padding"] != "none",
    }
    return {(kind, name, value) for name, value in single.items()}


def kernel_settings(case: Case) -> set[Any]:
    """What a kernel case shows."""
    names = ("D", "padding", "kb_batched", "shared_query", "style", "kb_scale_factor")
    shown = {(name, case[name]) for name in names} | {("groups", case["H"] // case["KVH"])}
    return shown | {("M", min(case["M"], 2)), ("past", case["past"] > 0), ("masked", case["n_masked_rows"] > 0)}


def encoder_settings(case: Case) -> set[Any]:
    """What an encoder case shows."""
    return {case["projector_type"]}


def small_cover(folder: Path, cases: list[Case], settings: Callable[[Case], set[Any]]) -> list[Case]:
    """Cases that together show every setting, picked one by one: the fewest bytes for each setting it adds."""
    pool = folder / "kb.safetensors"
    entry = pool.stat().st_size // len(load_file(pool)["kb_keys"]) if pool.exists() else 0
    size = {case["file"]: (folder / case["file"]).stat().st_size for case in cases}
    entries = {case["file"]: entries_of(load_file(folder / case["file"])) for case in cases}
    shown: set[Any] = set()
    used: set[int] = set()
    kept: list[str] = []
    while True:
        costs = {case["file"]: size[case["file"]] + entry * len(entries[case["file"]] - used) for case in cases}
        new = {case["file"]: len(settings(case) - shown) for case in cases}
        small = {name for name, cost in costs.items() if cost <= LARGEST and size[name] <= LARGEST_FILE}
        candidates = [case for case in cases if new[case["file"]] and case["file"] in small]
        if not candidates:
            return [case for case in cases if case["file"] in kept]
        best = min(candidates, key=lambda case: costs[case["file"]] / new[case["file"]])
        shown |= settings(best)
        used |= entries[best["file"]]
        kept.append(best["file"])


def entries_of(tensors: dict[str, Tensor]) -> set[int]:
    """The entries of the pool that a case uses."""
    return set(tensors["kb_index"].flatten().tolist()) if "kb_index" in tensors else set()


def write_cases(source: Path, target: Path, name: str, cases: list[Case]) -> None:
    """The list, and the files it names."""
    for case in cases:
        (target / case["file"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / case["file"], target / case["file"])
    (target / name).write_text(json.dumps(cases) + "\n")


def trim_weights(source: Path, target: Path) -> None:
    """Without the query heads of layers that see no knowledge: nothing reads them."""
    layers = json.loads((source / "config.json").read_text())["kb_layers"]
    read = {f"model.layers.{layer}.self_attn.q_proj_new.weight" for layer in layers}
    weights = load_file(source / "weights.safetensors")
    kept = {name: x for name, x in weights.items() if "q_proj_new" not in name or name in read}
    save_file(kept, target / "weights.safetensors")


def trim_pool(source: Path, target: Path, cases: list[Case]) -> None:
    """The rows that the cases use, in their old order, and the cases' indices into them."""
    pool = load_file(source / "kb.safetensors")
    tensors = {case["file"]: load_file(source / case["file"]) for case in cases}
    used = torch.tensor(sorted(set().union(*map(entries_of, tensors.values()))))
    place = torch.full((len(pool["kb_keys"]),), -1)
    place[used] = torch.arange(len(used))
    kept = {name: x[used[used < len(x)]].contiguous() for name, x in pool.items()}
    if not any(case["kind"].startswith("bf16") for case in cases):
        kept |= {name: x[:0] for name, x in pool.items() if name.endswith("bf16")}
    save_file(kept, target / "kb.safetensors")
    for name, t in tensors.items():
        if "kb_index" in t:
            save_file({**t, "kb_index": place[t["kb_index"]]}, target / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("full", type=Path)
    parser.add_argument("subset", type=Path)
    parser.add_argument("configurations", nargs="*", help="default: every folder with a config.json")
    options = parser.parse_args()
    for source in sorted(path for path in options.full.iterdir() if path.is_dir()):
        target = options.subset / source.name
        if (source / "encoder.json").exists():
            cases = json.loads((source / "encoder.json").read_text())
            write_cases(source, target, "encoder.json", small_cover(source, cases, encoder_settings))
        elif not (source / "config.json").exists():
            cases = json.loads((source / "cases.json").read_text())
            write_cases(source, target, "cases.json", small_cover(source, cases, kernel_settings))
        elif not options.configurations or source.name in options.configurations:
            cases = small_cover(source, json.loads((source / "cases.json").read_text()), model_settings)
            write_cases(source, target, "cases.json", cases)
            for name in ("config.json", "encoder.safetensors"):
                shutil.copyfile(source / name, target / name)
            trim_weights(source, target)
            trim_pool(source, target, cases)


if __name__ == "__main__":
    main()
