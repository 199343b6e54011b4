"""A server under load: `python -m benchmarks.serve_load [--requests 256] [--clients 32] [--model smollm2|tiny]
[--engine vllm --vllm enforce-eager ...]`.

Starts `kblam serve` with four knowledge bases, asks each question once alone, then all of them from many clients at
once while every base is changed over and over, and compares: an answer that differs from the one given alone ends the
run with status 1. Prints requests a second and the median and 99th percentile of seconds, with knowledge and without,
from one server in one run. Load goes to 127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from benchmarks.options import at_least
from kblam.bench.environment import environment
from kblam.knowledge import KnowledgeBase, Triple, load_encoder

BASES = ("alpha", "beta", "gamma", "delta")
NAMES = ("Amber Falcon", "Zorblax Quell", "Quiet Harbor", "Silver Meadow", "Copper Lantern", "Velvet Orchard")
COLORS = ("pale green with stars", "deep red with stripes", "dusty blue at the edges", "bright yellow with dots")
TOKENS = 16  # of an answer without knowledge, about as long as those with it
Asked = tuple[str, str]  # a model and a question


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=at_least(1), default=256)
    parser.add_argument("--clients", type=at_least(1), default=32)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--engine", default="auto", help="as `kblam serve` takes it")
    parser.add_argument("--dtype", default="auto", help="as `kblam serve` takes it")
    parser.add_argument("--vllm", action="append", default=[], metavar="OPTION", help="as `kblam serve` takes it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = _built(Path(folder))
        command = [sys.executable, "-m", "kblam", "serve", arguments.model, "--port", "0"]
        command += [
            "--engine",
            arguments.engine,
            "--dtype",
            arguments.dtype,
            *(f"--vllm={option}" for option in arguments.vllm),
        ]
        command += [f"--kb={name}={file}" for name, file in files.items()]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            try:
                print(json.dumps(_run(_url(server), arguments), indent=2))
            finally:
                server.terminate()


def _built(folder: Path) -> dict[str, Path]:
    encoder = load_encoder("minilm")
    files = {}
    for shift, name in enumerate(BASES):
        files[name] = folder / f"{name}.kb"
        with KnowledgeBase.create(files[name], encoder) as knowledge_base:
            colors = [COLORS[(place + shift) % len(COLORS)] for place in range(len(NAMES))]
            knowledge_base.add([Triple(entity, "color", color) for entity, color in zip(NAMES, colors, strict=True)])
    return files


def _url(server: subprocess.Popen[str]) -> str:
    assert server.stderr is not None
    said = ""
    for line in server.stderr:
        said += line
        if found := re.search(r"answers at (\S+),", line):
            threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would hold the server up
            return found[1]
    raise SystemExit(f"the server did not start:\n{said}")


def _run(url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=arguments.clients + 4)
    with httpx.Client(base_url=url, timeout=600, limits=limits) as client:
        model = client.get("/v1/models").json()["data"][0]["id"]
        every = [(f"{model}@{base}", f"What is the color of {name}?") for name in NAMES for base in BASES]
        plain = [(model, question) for _, question in every[:: len(BASES)]]
        result: dict[str, Any] = {"requests": arguments.requests, "clients": arguments.clients, "model": model}
        result["engine"] = client.get("/health").json()["engine"]
        for title, asked, with_changes in (("without knowledge", plain, False), ("with knowledge", every, True)):
            alone = {one: _said(client, one)[0] for one in asked}
            result[title] = _loaded(client, alone, arguments, with_changes=with_changes)
        result["environment"] = environment("cpu")
    return result


def _said(client: httpx.Client, asked: Asked) -> tuple[str, float]:
    model, question = asked
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": TOKENS, "temperature": 0}
    began = time.perf_counter()
    while (response := client.post("/v1/chat/completions", json=body)).status_code == 429:
        time.sleep(0.05)
    response.raise_for_status()
    return response.json()["choices"][0]["message"]["content"], time.perf_counter() - began


def _loaded(
    client: httpx.Client, alone: dict[Asked, str], arguments: argparse.Namespace, *, with_changes: bool
) -> dict[str, Any]:
    asked = [list(alone)[place % len(alone)] for place in range(arguments.requests)]
    is_over, changes = threading.Event(), list[float]()
    with ThreadPoolExecutor(1) as beside, ThreadPoolExecutor(arguments.clients) as pool:
        changing = beside.submit(_change, client, is_over, changes) if with_changes else None
        began = time.perf_counter()
        try:
            said = list(pool.map(lambda one: _said(client, one), asked))
        finally:
            seconds = time.perf_counter() - began
            is_over.set()
        if changing is not None:
            changing.result()  # answers beside changes that failed were never put to the test
    wrong = [(one, text, alone[one]) for one, (text, _) in zip(asked, said, strict=True) if text != alone[one]]
    if wrong:
        raise SystemExit(f"{len(wrong)} answers differ from those given alone; the first: {wrong[0]}")
    each = sorted(taken for _, taken in said)
    return {
        "requests_per_second": round(len(said) / seconds, 2),
        "p50_seconds": round(statistics.median(each), 3),
        "p99_seconds": round(each[min(len(each) - 1, int(0.99 * len(each)))], 3),
        "different_from_alone": len(wrong),
        "changes": len(changes),
        "median_seconds_of_a_change": round(statistics.median(changes), 3) if changes else None,
    }


def _change(client: httpx.Client, is_over: threading.Event, taken: list[float]) -> None:
    """Another fact in each base in turn, over and over."""
    number = 0
    while not is_over.is_set():
        number += 1
        triple = {"name": "Hidden Glade", "property": "motto", "value": f"motto number {number}"}
        began = time.perf_counter()
        path = f"/v1/knowledge/{BASES[number % len(BASES)]}/triples"
        while (response := client.put(path, json=triple)).status_code == 429:
            time.sleep(0.05)
        response.raise_for_status()
        taken.append(time.perf_counter() - began)


if __name__ == "__main__":
    main()
