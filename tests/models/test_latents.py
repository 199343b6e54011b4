"""A resident knowledge base as latents: storage, adapters, gradients, and which path a forward pass takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from kblam.errors import KnowledgeError
from kblam.knowledge import KnowledgeBase, Triple
from kblam.models import attach
from kblam.models.copies import resident_for
from kblam.models.resident import ResidentKnowledge
from kblam_kernels import DenseKnowledge, LatentKnowledge, RectangularAttention, UnsupportedInputError
from kblam_kernels.common import native
from kblam_kernels.plan import devices
from tests.fakes import HashingEncoder
from tests.kernels.cpu.pinned import HAVE_BYTES
from tests.models.conftest import Tied, tie
from tests.models.tiny import EMBEDDING_DIM, close, logits, prompts, tiny_adapter, tiny_model

IDS, MASK = prompts()
CPU = torch.device("cpu")
MLP = {"projector": "mlp", "mlp_depth": 1, "mlp_hidden_dim": 20}


@pytest.fixture
def kb() -> Iterator[KnowledgeBase]:
    facts = [Triple(f"thing {number}", "color", f"value {number}") for number in range(30)]
    with KnowledgeBase.from_triples(facts, HashingEncoder(EMBEDDING_DIM)) as kb:
        yield kb


def resident_of(kb: KnowledgeBase, tied: Tied, dtype: torch.dtype = torch.float32, **options: str) -> ResidentKnowledge:
    return ResidentKnowledge(kb, tied.adapter, dtype=dtype, device=CPU, **options)


def with_knowledge(tied: Tied, resident: ResidentKnowledge) -> Tensor:
    with tied.attachment.using(resident):
        return logits(tied.model, IDS, MASK)


@pytest.mark.parametrize(
    ("storage", "least", "most"),
    [
        ("auto", 0, 1e-5),
        ("float32", 0, 1e-5),
        ("float16", 0, 1e-5),
        ("bfloat16", 1e-4, 2e-2),
        ("int8", 1e-3, 2e-2),
        ("float8_e4m3fn", 1e-2, 1e-1),
    ],
)
def test_storage_costs_what_its_precision_costs(
    storage: str, least: float, most: float, kb: KnowledgeBase, tied: Tied
) -> None:
    expected = with_knowledge(tied, resident_of(kb, tied, plan="dense"))
    resident = resident_of(kb, tied, plan="latent", storage=storage)
    error = (with_knowledge(tied, resident) - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert least <= error < most


def test_float16_loses_nothing_of_what_is_stored_in_float16(kb: KnowledgeBase, tied: Tied) -> None:
    resident = resident_of(kb, tied, plan="latent")
    latents = resident.layer(0)
    assert isinstance(latents, LatentKnowledge)
    assert latents.key.dtype == torch.float16
    stored = kb.embeddings()
    for row in range(30):
        (there,) = kb.triples_at([int(stored.ids[row])])
        at = next(place for place in range(30) if resident.triples_at([place]) == [there])
        assert torch.equal(latents.key[at], torch.from_numpy(stored.key[row]))


def test_latents_take_what_they_promise(kb: KnowledgeBase, tied: Tied) -> None:
    sizes = {}
    for storage in ("float32", "auto", "int8"):
        resident = resident_of(kb, tied, plan="latent", storage=storage)
        sizes[storage] = resident.num_bytes / len(resident.buffers["norm"])
    assert sizes == {"float32": 2 * 16 * 4 + 4, "auto": 2 * 16 * 2 + 4, "int8": 2 * 16 + 12}
    one = resident_of(kb, tied, plan="latent")
    assert one.layer(0).key.data_ptr() == one.layer(2).key.data_ptr(), "all layers share them"


def test_an_mlp_adapter_holds_its_last_hidden_activation(kb: KnowledgeBase) -> None:
    tied = tie(knowledge_scale=4.0, **MLP)
    resident = resident_of(kb, tied, plan="latent")
    latents = resident.layer(0)
    # Not embeddings any more: in the model's own dtype.
    assert (latents.key.dtype, latents.key.shape[1]) == (torch.float32, 20)
    close(with_knowledge(tied, resident), with_knowledge(tied, resident_of(kb, tied, plan="dense")))
    kb.add(Triple("thing 3", "color", "another"))
    resident.sync()
    close(with_knowledge(tied, resident), with_knowledge(tied, resident_of(kb, tied, plan="dense")))


def test_bfloat16_models_hold_bfloat16(kb: KnowledgeBase) -> None:
    tied = tie()
    tied.model.to(torch.bfloat16)
    resident = resident_of(kb, tied, torch.bfloat16, plan="latent")
    assert resident.buffers["key"].dtype == torch.bfloat16
    dense = with_knowledge(tied, resident_of(kb, tied, torch.bfloat16, plan="dense"))
    latent = with_knowledge(tied, resident)
    exact = tie()
    truth = with_knowledge(exact, resident_of(kb, exact, plan="dense"))
    # As far from float32 as the dense path is.
    assert (latent - truth).abs().mean() < 1.5 * (dense - truth).abs().mean() + 1e-3


def test_an_identity_adapter_is_dense(kb: KnowledgeBase) -> None:
    model = tiny_model(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, hidden_size=8, head_dim=4)
    adapter = tiny_adapter(model, projector="identity", layer_frequency=1)
    assert adapter.config.out_dim == EMBEDDING_DIM
    tied = Tied(model, adapter, attach(model, adapter))
    resident = resident_of(kb, tied)
    assert (resident.plan.decode, resident.plan.prefill) == ("dense", "dense")
    assert isinstance(resident.layer(0), DenseKnowledge)
    with pytest.raises(UnsupportedInputError, match=r"'latent' is pinned .* has no latents"):
        resident_of(kb, tied, plan="latent")


def test_each_phase_reads_what_the_plan_says(kb: KnowledgeBase, tied: Tied) -> None:
    resident = resident_of(kb, tied, plan="decode=latent,prefill=dense")
    assert isinstance(resident.layer(0, new_tokens=1), LatentKnowledge)
    assert isinstance(resident.layer(0, new_tokens=2), DenseKnowledge)
    made = resident_of(kb, tied, plan="materialise")
    assert not made.plan.holds_dense
    assert [made.layer(0, new_tokens=tokens).materialised for tokens in (1, 9)] == [False, True]
    close(made.layer(0, new_tokens=9).to_dense().key[:, :30], resident.layer(0, new_tokens=9).key[:, :30])
    # One answer whatever path its tokens take.
    seen = []
    for plan in ("latent", "dense", "decode=latent,prefill=dense", "materialise"):
        with tied.attachment.using(resident_of(kb, tied, plan=plan)):
            seen.append(tied.model.generate(IDS, attention_mask=MASK, max_new_tokens=8, do_sample=False).tolist())
    assert seen[1:] == seen[:1] * 3


def test_the_batch_does_not_choose_the_path(kb: KnowledgeBase, tied: Tied, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = resident_of(kb, tied, plan="decode=latent,prefill=dense")
    resident.plan = dataclasses.replace(resident.plan, changes=(4,))
    seen: list[type] = []
    layer = ResidentKnowledge.layer

    def noted(self: ResidentKnowledge, *arguments: int, **options: int) -> DenseKnowledge | LatentKnowledge:
        knowledge = layer(self, *arguments, **options)
        seen.append(type(knowledge))
        return knowledge

    monkeypatch.setattr(ResidentKnowledge, "layer", noted)
    with tied.attachment.using(resident):
        for batch, new_tokens, expected in ((1, 1, LatentKnowledge), (8, 3, LatentKnowledge), (1, 4, DenseKnowledge)):
            seen.clear()
            tied.model(IDS[:1, -new_tokens:].expand(batch, -1))
            assert set(seen) == {expected}, (batch, new_tokens)


def test_query_heads_learn_over_latents(kb: KnowledgeBase, tied: Tied) -> None:
    tied.adapter.query_heads.requires_grad_(True)
    found = []
    for plan in ("latent", "dense"):
        tied.adapter.zero_grad()
        with tied.attachment.using(resident_of(kb, tied, plan=plan)):
            tied.model(IDS, attention_mask=MASK, labels=IDS.masked_fill(MASK == 0, -100)).loss.backward()
        found.append(tied.adapter.query_heads["2"].weight.grad.clone())
    assert found[1].any()
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def test_attach_says_how_it_is_held(kb: KnowledgeBase) -> None:
    model = tiny_model()
    adapter = tiny_adapter(model)
    attachment = attach(model, adapter, plan="latent", storage="int8")
    assert attach(model, adapter, plan="latent", storage="int8") is attachment
    resident = resident_for(attachment, kb)
    assert resident.buffers["key"].dtype == torch.int8
    assert resident_for(attachment, kb) is resident
    again = attach(model, adapter, plan="dense")
    assert again is not attachment
    assert set(resident_for(again, kb).buffers) == {
        f"dense {what} {layer}" for what in ("key", "value") for layer in (0, 2)
    }


def test_what_cannot_be_stored_is_refused(kb: KnowledgeBase, tied: Tied) -> None:
    with pytest.raises(KnowledgeError, match=r"storage must be one of auto, float32, .*; got 'int4'"):
        attach(tied.model, tied.adapter, storage="int4")
    with pytest.raises(KnowledgeError, match=r"'float32' is for float32 models, this one is torch.bfloat16"):
        resident_of(kb, tied, torch.bfloat16, storage="float32")


def test_growth_makes_a_new_plan(kb: KnowledgeBase, tied: Tied, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past its room the knowledge base is planned for anew, and may change its layout; within, nothing moves."""
    monkeypatch.setattr(devices, "free_memory", lambda device: 400_000)
    resident = resident_of(kb, tied, plan="prefill=dense")
    dense = resident_of(kb, tied)
    before = dense.plan
    assert "dense key 0" in dense.buffers
    monkeypatch.setattr(devices, "free_memory", lambda device: 10_000)
    kb.add([Triple(f"thing {number}", "color", "more") for number in range(30, 50)])
    dense.sync()
    assert dense.plan is before, "there was room"
    kb.add([Triple(f"thing {number}", "color", "more") for number in range(50, 100)])
    dense.sync()
    assert dense.plan is not before
    assert dense.plan.workload.triples == 100
    assert dense.buffers.keys() == {"key", "value", "norm"}
    with pytest.raises(UnsupportedInputError, match="'dense' is pinned for prefill"):
        resident.sync()
    close(with_knowledge(tied, dense), with_knowledge(tied, resident_of(kb, tied, plan="latent")))


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_pruned_latents_are_projected_and_attended_to_like_pruned_keys(storage: str, kb: KnowledgeBase) -> None:
    tied = tie(top_k=4, knowledge_scale=4.0)
    resident = resident_of(kb, tied, plan="latent", storage=storage)
    chosen: list[tuple[DenseKnowledge, Tensor]] = []

    def observe(*, knowledge: DenseKnowledge, index: Tensor, **_: object) -> None:
        chosen.append((knowledge, index))

    with tied.attachment.observing(observe):
        pruned = with_knowledge(tied, resident)
        dense = with_knowledge(tied, resident_of(kb, tied, plan="dense"))
    (of_latents, index), (of_keys, dense_index) = chosen
    assert isinstance(of_latents, DenseKnowledge)
    assert of_latents.key.shape == of_keys.key.shape
    if storage == "float32":
        close(pruned, dense)
        assert torch.equal(index, dense_index)


WIDE = {
    "linear": {},
    "mlp": {"projector": "mlp", "mlp_depth": 1, "mlp_hidden_dim": 40},
}


@pytest.mark.parametrize("projector", WIDE)
@pytest.mark.parametrize(
    ("storage", "width", "error"), [("float32", 32, 1e-5), ("int8", 32, 2e-2), ("auto", None, 1e-5)]
)
def test_latents_are_no_wider_than_what_the_projections_see(
    projector: str, storage: str, width: int | None, error: float
) -> None:
    tied = tie()
    adapter = tiny_adapter(tied.model, **{"layers": (2,), "embedding_dim": 48, **WIDE[projector]})
    tied = Tied(tied.model, adapter, attach(tied.model, adapter))
    facts = [Triple(f"thing {number}", "color", f"value {number}") for number in range(30)]
    with KnowledgeBase.from_triples(facts, HashingEncoder(48)) as kb:
        resident = resident_of(kb, tied, plan="latent", storage=storage)
        # What is stored in float16 anyway is stored as it is, for a model of float32.
        expected_width = width or (48 if projector == "linear" else 32)
        assert resident.layer(2).key.shape[1] == resident.plan.workload.width == expected_width

        def differs() -> Tensor:
            expected = with_knowledge(tied, resident_of(kb, tied, plan="dense"))
            return (with_knowledge(tied, resident) - expected).square().mean().sqrt() / expected.square().mean().sqrt()

        assert differs() < error
        kb.add(Triple("thing 3", "color", "another"))
        resident.sync()
        assert differs() < error


def test_an_adapter_of_named_layers_reaches_them_alone(kb: KnowledgeBase, tied: Tied) -> None:
    model = tied.model
    adapter = tiny_adapter(model, layers=(1, 3))
    named = Tied(model, adapter, attach(model, adapter))
    asked = []
    layer_of = ResidentKnowledge.layer

    class Seen(ResidentKnowledge):
        def layer(self, layer: int, new_tokens: int = 1) -> DenseKnowledge | LatentKnowledge:
            asked.append(layer)
            return layer_of(self, layer, new_tokens)

    results = []
    for plan in ("latent", "dense"):
        resident = Seen(kb, adapter, dtype=torch.float32, device=CPU, plan=plan)
        results.append(with_knowledge(named, resident))
    assert set(asked) == {1, 3}
    close(*results)
    with pytest.raises(AssertionError):
        close(results[0], logits(model, IDS, MASK))


@torch.no_grad()
def decoded(tied: Tied, resident: ResidentKnowledge) -> tuple[Tensor, dict[str, Any]]:
    """Logits of two steps after a prompt, and what the last step's evidence layer was observed with."""
    seen: dict[str, Any] = {}
    with tied.attachment.using(resident):
        cache = DynamicCache(config=tied.model.config)
        found = [tied.model(IDS[1:], past_key_values=cache).logits[:, -1]]
        found.append(tied.model(IDS[1:, :1], past_key_values=cache).logits[:, -1])
        with tied.attachment.observing(seen.update):
            found.append(tied.model(IDS[1:, 1:2], past_key_values=cache).logits[:, -1])
    return torch.stack(found), seen


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"knowledge_scale": 3.0}], ids=str)
def test_a_query_head_read_by_the_kernels_asks_what_it_asks_itself(
    options: dict[str, Any], backend: str, kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    tied = tie(**options)
    if backend == "cpu" and (reason := native.unavailable()) is not None:
        pytest.skip(reason)
    tied.attachment = attach(tied.model, tied.adapter, backend=backend)
    resident = resident_of(kb, tied, plan="latent")
    read: list[torch.Size] = []
    whole = RectangularAttention.of_hidden_states

    def reading(self: RectangularAttention, *arguments: Any, **named: Any) -> Any:
        read.append(arguments[3].shape)
        return whole(self, *arguments, **named)

    monkeypatch.setattr(RectangularAttention, "of_hidden_states", reading)
    found, seen = decoded(tied, resident)
    # Of every single new token, in both knowledge layers; pruning wants the query itself.
    assert read == ([] if options.get("top_k") else [torch.Size([1, 1, 32])] * 4)
    calls: list[int] = []
    for head in tied.adapter.query_heads.values():
        # With a hook it is no weight alone.
        head.register_forward_hook(lambda *_: calls.append(1))
    expected, expected_seen = decoded(tied, resident)
    assert len(calls) == 6
    assert len(read) == (0 if options.get("top_k") else 4)
    close(found, expected)
    torch.testing.assert_close(seen["query"], expected_seen["query"], rtol=1e-5, atol=1e-5)
    assert seen["query"].shape == (1, 4, 1, 8)


def test_int8_products_reach_the_kernels_and_int8_latents_alone(kb: KnowledgeBase, tied: Tied) -> None:
    found = {}
    for storage in ("int8", "float16"):
        for allowed in (False, True):
            asked = {"plan": "latent", "backend": "cpu", "storage": storage, "int8_products": allowed}
            attachment = attach(tied.model, tied.adapter, **asked)
            assert attach(tied.model, tied.adapter, **asked) is attachment
            with attachment.using(resident_for(attachment, kb)):
                found[storage, allowed] = logits(tied.model, IDS, MASK)
    assert torch.equal(found["float16", True], found["float16", False])
    torch.testing.assert_close(found["int8", True], found["int8", False], rtol=0, atol=0.2)
    has_bytes = native.instruction_set() in HAVE_BYTES
    assert torch.equal(found["int8", True], found["int8", False]) != has_bytes
