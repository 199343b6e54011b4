"""The code of docs/vllm.md runs, as it stands there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.test_docs import BLOCK, ROOT
from tests.vllm.engine import engines


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    engines.stop()
    page = (ROOT / "docs" / "vllm.md").read_text(encoding="utf-8")
    blocks = [code for _, code in BLOCK.findall(page)]
    assert len(blocks) == 2
    found: dict[str, Any] = {}
    exec(
        compile(
            blocks[0].replace("llm = LLM(", "llm = LLM(enforce_eager=True, max_model_len=192, model="), "page", "exec"
        ),
        found,
    )
    engines._running.append(found["llm"])
    texts = [output.outputs[0].text for output in found["outputs"]]
    assert "pale green with stripes" in texts[0]
    assert "deep red with stars" in texts[1]
    assert "green" not in texts[2]
    said = found["outputs"][0].kv_transfer_params["kblam"]
    assert (said["knowledge_base"], said["evidence"][0]["value"]) == ("facts", "pale green with stripes")
    assert said["text"] == texts[0] == "The color of Zorblax Quell is pale green with stripes."
    exec(compile(blocks[1], "page", "exec"), found)
    assert {name: one["triples"] for name, one in found["bases"].items()} == {"facts": 2, "hr": 1}
