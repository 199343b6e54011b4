"""Model cases read from latents: the embeddings as they are, upstream's projections moved to the queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam.adapter import KnowledgeAdapter
from kblam.models import attach
from kblam.models.formats import LatentFormat, is_absorbable
from kblam_kernels import LatentKnowledge
from tests.golden.comparison import Scores
from tests.golden.files import Case, all_cases, read_tensors
from tests.golden.test_models import LOGITS, prefill, seen_rows
from tests.golden.upstream_models import UpstreamModels

pytestmark = pytest.mark.golden
INTERPRETED = 8  # new tokens at most


@dataclass(frozen=True)
class Latents:
    """A knowledge source of some triples as float32 latents."""

    form: LatentFormat
    buffers: dict[str, Tensor]
    dtype = torch.float32
    device = torch.device("cpu")

    @property
    def num_triples(self) -> int:
        return len(self.buffers["norm"])

    def layer(self, layer: int, batch: int = 1, new_tokens: int = 1) -> LatentKnowledge:
        return self.form.layer(layer, self.buffers)


def latents_of(case: Case, rows: Tensor, adapter: KnowledgeAdapter) -> Latents:
    """The case's rows of the pool."""
    pool = read_tensors(case.folder / "kb.safetensors")
    form = LatentFormat(adapter, torch.float32, torch.device("cpu"), torch.float32)
    return Latents(form, form.encode(pool["base_key_emb"][rows], pool["base_value_emb"][rows]))


def cases() -> list[Any]:
    """Cases of one list for all rows, without pruning; in the Triton interpreter a short one of each configuration."""
    chosen, folders = [], set()
    for case in all_cases():
        if case.kind not in ("forward", "decode") or case["kb_config"].get("dynamic_sparsify"):
            continue
        rows = case.tensors().get("kb_index")
        if rows is None or rows.dim() != 1:
            continue
        backends = ["cpu", "reference"]
        if case.kind == "decode" and case["N"] <= INTERPRETED and case.folder not in folders:
            folders.add(case.folder)
            backends.append("triton")
        chosen += [pytest.param(case, backend, id=f"{case.name}-{backend}") for backend in backends]
    return chosen


@pytest.mark.parametrize(("case", "backend"), cases())
def test_latents_give_upstreams_logits(
    case: Case, backend: str, scores: Scores, upstream_models: UpstreamModels
) -> None:
    t = case.tensors()
    model = upstream_models.model(case.folder)
    adapter = upstream_models.adapter(case.folder, case["kb_config"])
    if not is_absorbable(adapter):
        pytest.skip("an identity projector has no latents")
    attachment = attach(model, adapter, backend=backend)
    seen = seen_rows(t, model)
    with attachment.using(latents_of(case, t["kb_index"], adapter)), torch.no_grad():
        result = prefill(model, t, use_cache=case.kind == "decode")
        scores.close("logits", result.logits[seen], t["logits"][seen], LOGITS)
        if case.kind == "forward":
            return
        mask = t["attention_mask"]
        for step in range(case["steps"]):
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            result = model(
                input_ids=t["generated"][:, step, None],
                attention_mask=mask,
                position_ids=t["step_position_ids"][:, step, None],
                past_key_values=result.past_key_values,
                use_cache=True,
            )
            scores.close("step logits", result.logits[:, 0], t["step_logits"][:, step], LOGITS)
