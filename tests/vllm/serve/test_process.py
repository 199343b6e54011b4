"""The command, with vLLM, as a process: it starts, answers, takes a change, and ends in the middle of an answer."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from kblam import KnowledgeBase
from tests.vllm.serve.running import FACT, OPTIONS, OTHER_VALUE, QUESTION

CHAT = {"model": "tiny@facts", "messages": [{"role": "user", "content": QUESTION}]}
TWO_RANKS = (*(option for option in OPTIONS if "backend" not in option), "tensor-parallel-size=2")


@pytest.mark.parametrize(
    "options", [pytest.param(OPTIONS, id="one-process"), pytest.param(TWO_RANKS, id="two-of-tensor-parallelism")]
)
def test_it_serves_and_sigterm_tells_whoever_still_waits(options: tuple[str, ...], bases: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "kblam", "serve", "tiny", "--engine", "vllm", "--port", "0"]
    command += [f"--kb=facts={bases['facts']}", *(f"--vllm={option}" for option in options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = ""
        while not (found := re.search(r"answers at (\S+), engine: vLLM \d", said)):
            line = process.stderr.readline()
            assert line, said
            said += line
        asked = httpx.post(f"{found[1]}/v1/chat/completions", json=CHAT, timeout=300).json()
        assert FACT.value in asked["choices"][0]["message"]["content"]
        assert asked["kblam"]["evidence"][0]["value"] == FACT.value
        changed = {"name": FACT.name, "property": FACT.property, "value": OTHER_VALUE}
        assert httpx.put(f"{found[1]}/v1/knowledge/facts/triples", json=changed, timeout=300).json()["updated"] == 1
        asked = httpx.post(f"{found[1]}/v1/chat/completions", json=CHAT, timeout=300).json()
        assert OTHER_VALUE in asked["choices"][0]["message"]["content"]
        # As long as the model can: longer than it is given at the end.
        endless = {**CHAT, "model": "tiny", "stream": True, "max_tokens": 170, "min_tokens": 170}
        with httpx.stream("POST", f"{found[1]}/v1/chat/completions", json=endless, timeout=300) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            last = [line for line in lines if line][-1]
        _, rest = process.communicate(timeout=120)
    finally:
        process.kill()
    assert last == "data: [DONE]" or json.loads(last.removeprefix("data: "))["error"]["code"] == "server_ending"
    assert process.returncode == 0, rest
    assert "Traceback" not in rest
    with KnowledgeBase.open(bases["facts"], read_only=True) as base:
        base.check()
        assert OTHER_VALUE in {triple.value for triple in base.triples()}
