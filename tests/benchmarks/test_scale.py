"""The scale benchmark on a tiny model: its rows, its memory, and what it says where dense knowledge cannot fit."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benchmarks import scale
from kblam.bench.models import CONFIGS, TINY, GrowingKnowledge, SyntheticKnowledge, build
from kblam_kernels.plan import Workload

# Of a latent: the toy has fewer outputs than MiniLM's vectors have numbers, two slots of four heads of 16.
WIDTH = 128


def test_smoke_writes_a_row_a_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "scale.json"
    scale.main(["--smoke", "--triples", "50", "700", "--rounds", "1", "--json", str(file)])
    rows = json.loads(file.read_text())["rows"]
    fields = {
        "triples",
        "knowledge_bytes",
        "resident_bytes",
        "dense_bytes",
        "ms_per_token",
        "ms_per_token_without",
    }
    assert [set(row) for row in rows] == [fields, fields]
    for row, triples in zip(rows, (50, 700), strict=True):
        assert row["triples"] == triples
        assert row["knowledge_bytes"] == triples * (2 * WIDTH * 2 + 4)
        assert row["dense_bytes"] == triples * 2 * (2 * 4 * 16 * 2), "2 layers x key and value x 4 heads of 16"
        assert row["resident_bytes"] > row["knowledge_bytes"]
        assert row["ms_per_token"] > 0 < row["ms_per_token_without"]
    assert "| 700 | 0 MB |" in capsys.readouterr().out


def test_json_alone_leaves_stdout_to_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    rows = scale.main(["--smoke", "--triples", "50", "--rounds", "1", "--encoder", "minilm", "--json"])
    out, table = capsys.readouterr()
    assert json.loads(out)["rows"] == [asdict(row) for row in rows]
    assert "| 50 | 0 MB |" in table


def test_a_prefill_is_timed_with_and_without(capsys: pytest.CaptureFixture[str]) -> None:
    scale.main(["--smoke", "--triples", "50", "--rounds", "1"])
    titles, _, cells = ([cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.split("\n")[2:5])
    at = titles.index("ms prefill of 32")
    assert titles[at + 1] == "without"
    assert all(float(cell) > 0 for cell in cells[at : at + 2])


def test_real_triples_go_through_an_encoder_and_a_store(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = scale.main(["--smoke", "--triples", "70", "--rounds", "1", "--encoder", "minilm", "--storage", "int8"])
    assert row.triples == 70
    # A resident knowledge base has spare rows: an eighth.
    assert row.knowledge_bytes == 78 * (2 * WIDTH + 12)
    assert "70 triples encoded and stored in" in capsys.readouterr().err


def test_synthetic_knowledge_is_laid_out_as_a_resident_one() -> None:
    attachment = build(CONFIGS[TINY])
    source = SyntheticKnowledge(attachment.adapter, 40, torch.bfloat16, torch.int8)
    assert source.num_bytes == 40 * (2 * WIDTH + 12)
    assert source.layer(0).key.dtype == torch.int8
    assert source.buffers["norm"].all(), "every row is written"
    before = source.buffers["key"].clone()
    source.write(20, 21)
    changed = (before != source.buffers["key"]).any(1).nonzero().flatten().tolist()
    assert changed == [20]


def test_its_device_has_the_name_that_the_models_has() -> None:
    attachment = build(CONFIGS[TINY])
    source = GrowingKnowledge(attachment.adapter, 40, torch.bfloat16, torch.int8, "cpu:0")
    with attachment.using(source):
        pass


def test_dense_knowledge_that_does_not_fit_is_refused_in_words() -> None:
    assert scale.dense_verdict(Workload(10, 384, 4, 16, 2)) == "would fit"
    verdict = scale.dense_verdict(Workload(10**9, 384, 32, 64, 6))
    assert verdict.startswith("refused: 'dense' is pinned")
    assert "keys and values of all layers are 49152.00 GB" in verdict
