"""The question's part of the knowledge query: what it adds, in every layout, and what is refused."""

from __future__ import annotations

import pytest
import torch

from kblam.adapter import KnowledgeAdapter
from kblam.errors import KnowledgeError
from kblam.knowledge import KnowledgeBase, Triple
from kblam.models import attach, calls
from kblam.models.resident import ResidentKnowledge
from tests.fakes import HashingEncoder
from tests.models.conftest import Tied, tie
from tests.models.tiny import EMBEDDING_DIM as P
from tests.models.tiny import close, differ, logits, prompts, tiny_adapter, tiny_model, triples

HEADS = [{"question_head": "linear"}, {"question_head": "mlp", "question_hidden_dim": 20}]


def questions(rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, P, generator=torch.Generator().manual_seed(3))


def asked(tied: Tied, ids: torch.Tensor, e: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The evidence layer's hidden states and knowledge queries."""
    seen: dict[str, torch.Tensor] = {}

    def keep(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        seen["hidden"] = kwargs["hidden_states"]

    attention = tied.model.model.layers[tied.adapter.config.evidence_layer].self_attn
    hook = attention.register_forward_pre_hook(keep, with_kwargs=True, prepend=True)
    with (
        torch.no_grad(),
        tied.attachment.using(triples(tied.adapter, 9), question=e),
        tied.attachment.observing(lambda **found: seen.update(query=found["query"])),
    ):
        logits(tied.model, ids)
    hook.remove()
    return seen["hidden"], seen["query"]


def normed(tied: Tied) -> torch.nn.Module | None:
    """The query norm of the evidence layer, where there is one, its weights drawn anew."""
    attention = tied.model.model.layers[tied.adapter.config.evidence_layer].self_attn
    if (norm := tied.attachment.family.query_norm) is None:
        return None
    module: torch.nn.Module = getattr(attention, norm)
    with torch.no_grad():
        weight = module.get_parameter("weight")
        weight.add_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(4)))
    return module


@pytest.mark.parametrize("length", [1, 10], ids=["one token", "a prompt"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("head", HEADS, ids=["linear", "mlp"])
def test_the_question_is_added_to_every_query_of_its_row(head: dict[str, object], family: str, length: int) -> None:
    tied = tie(family, **head)
    ids, _ = prompts(length=length, padding=0)
    normed(tied)  # of which nothing is seen
    e, config = questions(), tied.adapter.config
    hidden, query = asked(tied, ids, e)
    layer = str(config.evidence_layer)
    trunk, asks = tied.adapter.question_trunk.double(), tied.adapter.question_heads[layer].double()
    heads = (config.num_heads, config.head_dim)
    wanted = (hidden.double() @ tied.adapter.query_heads[layer].weight.double().T).unflatten(-1, heads)
    wanted = wanted + asks(trunk(e.double())).unflatten(-1, heads)[:, None]
    close(query.transpose(1, 2), wanted.to(query.dtype), 1e-5)


def test_where_no_norm_is_or_no_question_the_bits_are_plain() -> None:
    ids, _ = prompts(padding=0)
    for family, head, e in (("llama", HEADS[0], questions()), ("qwen3", {}, None), ("gemma3_text", {}, None)):
        tied = tie(family, **head)
        norm, config = normed(tied), tied.adapter.config
        hidden, query = asked(tied, ids, e)
        layer, heads = config.evidence_layer, (config.num_heads, config.head_dim)
        wanted = torch.nn.functional.linear(hidden, tied.adapter.query_heads[str(layer)].weight)
        if e is not None:
            wanted = wanted + tied.adapter.question_part(layer, e)[:, None]
        wanted = wanted.unflatten(-1, heads).transpose(1, 2)
        assert torch.equal(query, wanted if norm is None else norm(wanted)), family


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_latents_and_dense_keys_see_the_same_question(family: str) -> None:
    tied = tie(family, **HEADS[0])
    ids, _ = prompts()
    facts = [Triple(f"thing {number}", "color", f"value {number}") for number in range(30)]
    found = []
    with KnowledgeBase.from_triples(facts, HashingEncoder(P)) as kb:
        for plan in ("latent", "dense"):
            source = ResidentKnowledge(kb, tied.adapter, dtype=torch.float32, device=ids.device, plan=plan)
            with tied.attachment.using(source, question=questions()):
                found.append(logits(tied.model, ids))
    close(*found, 1e-5)


def test_another_question_gives_another_answer() -> None:
    tied = tie(**HEADS[0])
    ids, _ = prompts()
    knowledge = triples(tied.adapter, 9)
    with tied.attachment.using(knowledge, question=questions()):
        first = logits(tied.model, ids)
    with tied.attachment.using(knowledge, question=questions().flip(0)):
        assert differ(logits(tied.model, ids), first)


def test_rows_that_generate_adds_keep_their_question() -> None:
    tied = tie(**HEADS[0])
    ids, _ = prompts()
    knowledge, e = triples(tied.adapter, 9), questions()
    seen = []

    def several(model: object, input_ids: torch.Tensor, **_: object) -> torch.Tensor:
        """Code of the caller's, which makes as many rows as it likes."""
        seen.append(logits(model, input_ids.repeat_interleave(3, 0)))
        return input_ids

    for how in ({"num_beams": 3}, {"num_return_sequences": 3, "num_beams": 3}):
        with tied.attachment.using(knowledge, question=e):
            output = tied.model.generate(ids, max_new_tokens=4, do_sample=False, **how)
        for row in (0, 1):
            with tied.attachment.using(knowledge, question=e[row : row + 1]):
                alone = tied.model.generate(ids[row : row + 1], max_new_tokens=4, do_sample=False, **how)
            assert torch.equal(output[row * len(alone) : (row + 1) * len(alone)], alone)
    with tied.attachment.using(knowledge, question=e):
        tied.model.generate(ids, custom_generate=several)
        close(seen[0][::3], logits(tied.model, ids), 1e-5)


@pytest.mark.parametrize("is_compiled", [False, True], ids=["plain", "compiled"])
def test_only_rows_of_generate_are_shared_out(is_compiled: bool) -> None:
    """A batch that happens to be twice as large may be anything: two questions for four prompts have no order."""
    torch._dynamo.reset()
    tied = tie(**HEADS[0])
    ids, _ = prompts()
    four, knowledge = ids.repeat_interleave(2, 0), triples(tied.adapter, 9)
    model = torch.compile(tied.model, fullgraph=True, backend="aot_eager") if is_compiled else tied.model
    refused = "KnowledgeError" if is_compiled else r"^question has 2 rows and the batch 4; give one per batch row$"
    with torch.no_grad(), tied.attachment.using(knowledge, question=questions()):
        wanted = model(ids, use_cache=False).logits
        with calls.generating(tied.attachment, 2):
            close(model(four, use_cache=False).logits[::2], wanted, 1e-5)
        with pytest.raises(Exception if is_compiled else KnowledgeError, match=refused):
            model(four, use_cache=False)
        close(model(ids, use_cache=False).logits, wanted)
    with torch.no_grad(), tied.attachment.using(knowledge, question=questions(1)):  # one is for all
        close(model(four, use_cache=False).logits[::2], model(ids, use_cache=False).logits, 1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("rows", "how", "message"),
    [
        (4, {}, "^question has 2 rows and the batch 4; give one per batch row$"),
        (4, {"num_beams": 3}, "^question has 2 rows and the batch 12, 3 for each row of generate's prompt; give one"),
        (1, {"num_beams": 2}, "^question has 2 rows and the batch 2, 2 for each row of generate's prompt; give one"),
        (1, {"do_sample": True, "num_return_sequences": 4}, "batch 4, 4 for each row of generate's prompt; give one"),
    ],
    ids=["plain", "beams", "one prompt", "samples"],
)
def test_generate_knows_how_many_rows_it_makes(rows: int, how: dict[str, object], message: str) -> None:
    tied = tie(**HEADS[0])
    ids = prompts(padding=0)[0][:1].expand(rows, -1)
    with (
        tied.attachment.using(triples(tied.adapter, 9), question=questions()),
        pytest.raises(KnowledgeError, match=message),
    ):
        tied.model.generate(ids, max_new_tokens=2, **how)


def test_a_block_within_generate_has_rows_of_its_own() -> None:
    """What a processor asks the model for, in the middle of a beam search, is no row of that search."""
    tied = tie(**HEADS[0])
    ids, _ = prompts()
    knowledge, found, refused = triples(tied.adapter, 9), [], []

    def processor(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        with tied.attachment.using(knowledge, question=questions()):
            found.append(logits(tied.model, ids))
            found.append(tied.model.generate(ids, max_new_tokens=1, do_sample=False))
            with pytest.raises(KnowledgeError) as told:
                logits(tied.model, ids.repeat_interleave(3, 0))
            refused.append(str(told.value))
        return scores

    with tied.attachment.using(knowledge, question=questions()):
        wanted = [logits(tied.model, ids), tied.model.generate(ids, max_new_tokens=1, do_sample=False)]
        tied.model.generate(ids, max_new_tokens=1, num_beams=3, logits_processor=[processor])
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    assert refused == ["question has 2 rows and the batch 6; give one per batch row"]


def test_a_question_head_needs_the_question_and_others_take_none(tied: Tied) -> None:
    with pytest.raises(KnowledgeError, match="has no question_head, so it cannot use question="):
        tied.attachment.set_knowledge(triples(tied.adapter, 9), question=questions())
    asking = tie(**HEADS[0])
    knowledge = triples(asking.adapter, 9)
    with pytest.raises(KnowledgeError, match=r"pass question=.*Session.question_vectors"):
        asking.attachment.set_knowledge(knowledge)
    for wrong, message in [
        (questions()[0], rf"question must be \(B, P\) with P = {P}"),
        (questions()[:, :-1], rf"question must be \(B, P\) with P = {P}"),
        (questions().half(), "question must be float32 on cpu; got torch.float16"),
        (questions().fill_(torch.nan), "question must be finite; it holds NaN or infinity"),
        (questions().div_(0), "question must be finite; it holds NaN or infinity"),
    ]:
        with pytest.raises(KnowledgeError, match=message):
            asking.attachment.set_knowledge(knowledge, question=wrong)
    ids, _ = prompts()
    with (
        asking.attachment.using(knowledge, question=questions(3)),
        pytest.raises(KnowledgeError, match="question has 3 rows and the batch 2"),
    ):
        logits(asking.model, ids)


def test_weights_in_training_keep_their_dtype() -> None:
    model = tiny_model().to(torch.bfloat16)
    adapter = tiny_adapter(model, **HEADS[0]).requires_grad_(True)
    attachment = attach(model, adapter, trainable=True)
    ids, _ = prompts()
    with attachment.using(triples(adapter, 9).to(torch.bfloat16), question=questions()):
        loss = model(ids).logits.float().sum()
    loss.backward()
    heads = [*adapter.query_heads.parameters(), *adapter.question_heads.parameters()]
    assert all(weight.dtype == torch.float32 and weight.grad is not None for weight in heads)


def test_the_question_is_projected_once_for_an_answer() -> None:
    tied = tie(**HEADS[0])
    calls = []
    hook = tied.adapter.question_heads["0"].register_forward_hook(lambda *_: calls.append(1))
    ids, mask = prompts()
    with tied.attachment.using(triples(tied.adapter, 9), question=questions()), torch.inference_mode():
        tied.model.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False)
    hook.remove()
    assert len(calls) == 1


def test_the_head_is_saved_and_read(tmp_path: object) -> None:
    adapter = tie(**HEADS[1]).adapter
    adapter.save_pretrained(tmp_path)
    again = KnowledgeAdapter.from_pretrained(tmp_path)
    assert again.config == adapter.config
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in adapter.state_dict().items())


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_compiled_model_sees_the_question_of_its_block(family: str) -> None:
    torch._dynamo.reset()
    tied = tie(family, **HEADS[1])
    ids, _ = prompts()
    knowledge = triples(tied.adapter, 9)
    compiled = torch.compile(tied.model, fullgraph=True, backend="aot_eager")
    for e in (questions(), questions().flip(0)):
        with torch.no_grad(), tied.attachment.using(knowledge, question=e):
            close(compiled(ids, use_cache=False).logits, tied.model(ids, use_cache=False).logits)
    torch._dynamo.reset()


def test_weights_that_learn_are_read_at_every_step() -> None:
    model = tiny_model()
    adapter = tiny_adapter(model, **HEADS[0]).requires_grad_(True)
    attachment = attach(model, adapter, trainable=True)
    ids, _ = prompts()
    attachment.set_knowledge(triples(adapter, 9), question=questions())
    before = logits(model, ids)
    with torch.no_grad():
        for head in adapter.question_heads.values():
            head.weight.neg_()
    assert differ(logits(model, ids), before)


class Doubled(torch.nn.Linear):
    """A head of a class of its own, as packed weights have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x.to(self.weight.dtype))


def test_a_head_with_a_forward_of_its_own_is_called() -> None:
    torch.manual_seed(0)
    model = tiny_model().to(torch.bfloat16)
    adapter = tiny_adapter(model)
    weight = adapter.query_heads["0"].weight
    own = Doubled(weight.shape[1], weight.shape[0], bias=False)
    own.weight = weight
    hidden = torch.randn(2, 3, weight.shape[1]).bfloat16()
    plain = adapter.knowledge_query(0, hidden.float())  # its own forward keeps its weights as they are
    adapter.query_heads["0"] = own
    found = adapter.knowledge_query(0, hidden)
    assert plain is not None
    assert found is not None
    close(found.float(), 2 * plain)
