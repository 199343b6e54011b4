"""Model cases read from latents: the embeddings as they are, upstream's projections moved to the queries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam.adapter import KnowledgeAdapter
from kblam.models import attach
from kblam.models.formats import LatentFormat
from kblam_kernels import LatentKnowledge
from tests.golden.comparison import Scores
from tests.golden.files import Case, all_cases, read_tensors
from tests.golden.test_models import LOGITS, check_pruning, correct_suffix, prefill, pruning_of, seen_rows
from tests.golden.upstream_models import UpstreamModels

pytestmark = pytest.mark.golden
INTERPRETED = 8  # new tokens at most
# Root mean square error of the logits over their own, by what a number of a latent keeps.
STORED = {torch.float16: 3e-3, torch.bfloat16: 2e-2, torch.int8: 6e-2, torch.float8_e4m3fn: 0.2}


@dataclass(frozen=True)
class Latents:
    """A knowledge source of some triples as latents."""

    form: LatentFormat
    buffers: dict[str, Tensor]
    dtype: torch.dtype
    device = torch.device("cpu")

    @property
    def num_triples(self) -> int:
        return len(self.buffers["norm"])

    @property
    def filled(self) -> None:
        """Every row holds a triple."""

    @property
    def log_count(self) -> float:
        return math.log(max(self.num_triples, 1))

    def layer(self, layer: int, new_tokens: int = 1) -> LatentKnowledge:
        return self.form.layer(layer, self.buffers)


def latents_of(
    case: Case,
    rows: Tensor,
    adapter: KnowledgeAdapter,
    dtype: torch.dtype = torch.float32,
    storage: torch.dtype = torch.float32,
) -> Latents:
    """The case's rows of the pool, for a model of `dtype`."""
    if not adapter.is_absorbable:
        pytest.skip("an identity projector has no latents")
    pool = read_tensors(case.folder / "kb.safetensors")
    form = LatentFormat(adapter, dtype, torch.device("cpu"), storage)
    return Latents(form, form.encode(pool["base_key_emb"][rows], pool["base_value_emb"][rows]), dtype)


def cases(*kinds: str, interpreted: bool = False) -> list[Any]:
    """Cases of one list for all rows; if asked, in the Triton interpreter a short one of each configuration."""
    chosen, folders = [], set()
    for case in all_cases():
        if case.kind not in kinds:
            continue
        rows = case.tensors().get("kb_index")
        if rows is None or rows.dim() != 1:
            continue
        backends = ["cpu", "reference"]
        if interpreted and case.kind == "decode" and case["N"] <= INTERPRETED and case.folder not in folders:
            folders.add(case.folder)
            backends.append("triton")
        chosen += [pytest.param(case, backend, id=f"{case.name}-{backend}") for backend in backends]
    return chosen


@pytest.mark.parametrize(("case", "backend"), cases("forward", "decode", interpreted=True))
def test_latents_give_upstreams_logits(
    case: Case, backend: str, scores: Scores, upstream_models: UpstreamModels
) -> None:
    t = case.tensors()
    model = upstream_models.model(case.folder)
    adapter, source, selecting = pruning_of(case, t, upstream_models, latents_of)
    attachment = attach(model, adapter, backend=backend)
    suffix, seen = correct_suffix(t), seen_rows(t, model)
    with attachment.using(source), selecting, torch.no_grad():
        result = prefill(model, t, use_cache=case.kind == "decode")
        scores.close("logits", result.logits[seen], t[f"logits{suffix}"][seen], LOGITS)
        if case.kind == "forward":
            return
        mask = t["attention_mask"]
        for step in range(case["steps"]):
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            result = model(
                input_ids=t[f"generated{suffix}"][:, step, None],
                attention_mask=mask,
                position_ids=t["step_position_ids"][:, step, None],
                past_key_values=result.past_key_values,
                use_cache=True,
            )
            scores.close("step logits", result.logits[:, 0], t[f"step_logits{suffix}"][:, step], LOGITS)


@pytest.mark.parametrize(("case", "backend"), cases("sparsify"))
def test_pruned_latents(case: Case, backend: str, scores: Scores, upstream_models: UpstreamModels) -> None:
    check_pruning(case, scores, upstream_models, latents_of, backend=backend)


@pytest.mark.parametrize("storage", STORED, ids=str)
@pytest.mark.parametrize(("case", "backend"), cases("forward"))
def test_stored_in_fewer_bits(
    case: Case, backend: str, storage: torch.dtype, scores: Scores, upstream_models: UpstreamModels
) -> None:
    """As far from upstream's logits as the storage accounts for; without knowledge they are off by their own size."""
    t = case.tensors()
    model = upstream_models.model(case.folder)
    adapter = upstream_models.adapter(case.folder, case["kb_config"])
    attachment = attach(model, adapter, backend=backend)
    with attachment.using(latents_of(case, t["kb_index"], adapter, storage=storage)):
        logits = prefill(model, t, use_cache=False).logits
    seen = seen_rows(t, model)
    scores.near(f"logits, {storage}", logits[seen], t["logits"][seen], STORED[storage])


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize(("case", "backend"), cases("bf16"))
def test_in_bfloat16(
    case: Case, backend: str, storage: torch.dtype, scores: Scores, upstream_models: UpstreamModels
) -> None:
    """A bfloat16 model on latents is as close to float32 as upstream's own bfloat16 run, within a factor 2."""
    t = case.tensors()
    model = upstream_models.model(case.folder, torch.bfloat16)
    adapter = upstream_models.adapter(case.folder, case["kb_config"])
    attachment = attach(model, adapter, backend=backend)
    with attachment.using(latents_of(case, t["kb_index"], adapter, torch.bfloat16, storage)):
        logits = prefill(model, t, use_cache=False).logits
    seen = seen_rows(t, model)
    scores.no_worse(f"RMS of logits, {storage}", logits[seen], t["logits"][seen], t["logits_f32"][seen])
