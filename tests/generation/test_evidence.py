"""Evidence: masses that are known beforehand, and what they add up to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kblam import KnowledgeBase, Triple, ask, ask_many, attach
from kblam.errors import GenerationError
from kblam.generation.evidence import EvidenceRecorder, strongest
from kblam.models.copies import resident_for
from kblam.models.judging import CANDIDATES
from kblam_kernels import DenseKnowledge, LatentKnowledge, LatentProjection, knowledge_lse
from kblam_kernels.evidence import blocks, cpu
from kblam_kernels.evidence.op import evidence_mass
from tests.generation.conftest import World
from tests.generation.tiny import FACTS, make_prefer, make_uniform, tiny_adapter

QUESTION = "what is the capital of amber falcon ?"


@pytest.mark.parametrize("triple", FACTS, ids=lambda triple: triple.name)
def test_the_triple_that_takes_all_attention_is_named_first(world: World, triple: Triple) -> None:
    make_prefer(world.model, world.adapter, world.encoder, triple)
    answer = ask(world.model, world.kb, QUESTION, tokenizer=world.tokenizer, max_new_tokens=3)
    assert answer.evidence[0].triple == triple
    assert 0.99 < answer.evidence[0].mass <= 1
    assert sum(item.mass for item in answer.evidence[1:]) < 0.01


def test_equal_scores_share_the_attention_equally(world: World) -> None:
    make_uniform(world.model, world.adapter)
    prompt = len(world.tokenizer(QUESTION)["input_ids"])
    answer = ask(world.model, world.kb, QUESTION, tokenizer=world.tokenizer, max_new_tokens=4)
    # The largest share over the tokens is that of the first, which sees the fewest other tokens.
    expected = 1 / (len(FACTS) + prompt)
    assert {item.triple for item in answer.evidence} == set(FACTS)
    assert [item.mass for item in answer.evidence] == pytest.approx([expected] * 3, abs=1e-6)


def test_padding_is_no_part_of_the_shares(world: World) -> None:
    """A short question beside a long one has the masses it has alone."""
    make_uniform(world.model, world.adapter)
    answers = ask_many(world.model, world.kb, ["motto ?", QUESTION], tokenizer=world.tokenizer, max_new_tokens=2)
    for answer, question in zip(answers, ["motto ?", QUESTION], strict=True):
        prompt = len(world.tokenizer(question)["input_ids"])
        assert answer.evidence[0].mass == pytest.approx(1 / (3 + prompt), abs=1e-6)


@pytest.mark.parametrize(("questions", "rows"), [(2, 1), (3, 1), (2, 4)])
def test_names_of_other_questions_than_rows_are_refused(world: World, questions: int, rows: int) -> None:
    recorder = EvidenceRecorder(torch.zeros(questions, 1, dtype=torch.int64))
    with (
        torch.no_grad(),
        world.attachment.using(resident_for(world.attachment, world.kb)),
        world.attachment.observing(recorder),
        pytest.raises(GenerationError, match=f"has {questions} questions and the batch {rows} rows; give one a row"),
    ):
        world.model(torch.arange(4).expand(rows, -1))


def random_knowledge(layout: str, B: int, H: int, M: int, D: int) -> DenseKnowledge | LatentKnowledge:
    if layout == "latent":
        weights, biases = torch.randn(2, H, D, 6), torch.randn(2, H, D)
        projection = LatentProjection(weights[0], biases[0], weights[1], biases[1])
        return LatentKnowledge(torch.randn(M, 6), torch.randn(M, 6), torch.rand(M), projection)
    rows = (B, H, M, D) if layout == "own" else (H, M, D)
    return DenseKnowledge(torch.randn(rows), torch.randn(rows))


@pytest.mark.parametrize("layout", ["latent", "shared", "own"])
@pytest.mark.parametrize("at_once", [1, 2 * 2 * 50, 1 << 24])
def test_tokens_that_are_read_together_have_what_each_has_alone(
    layout: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a bias and ranges for each batch row, and names of its question."""
    monkeypatch.setattr("kblam.generation.evidence.MASSES_AT_ONCE", at_once)
    torch.manual_seed(3)
    B, H, N, M, D = 2, 4, 7, 50, 8
    query, bias = torch.randn(B, H, N, D), torch.randn(B, M)
    knowledge = random_knowledge(layout, B, H, M, D)
    ranges = torch.tensor([[0, 30], [5, 50]], dtype=torch.int32)
    lse = knowledge_lse(query, knowledge, knowledge_bias=bias, knowledge_range=ranges) + 1
    attention = {"knowledge": knowledge, "bias": bias, "knowledge_range": ranges, "scale": D**-0.5, "index": None}
    attention |= {"int8_products": False, "backend": "reference"}
    named = torch.tensor([[29, 3], [49, -1]])
    together, alone = EvidenceRecorder(named), EvidenceRecorder(named)
    together.every_token(newest=5, query=query, lse=lse, **attention)
    for token in range(2, N):
        alone(query=query[:, :, : token + 1], lse=lse[:, :, : token + 1], **attention)
    assert len(together.masses) == len(together.places) == 5
    for ours, theirs in zip(together.masses, alone.masses, strict=True):
        torch.testing.assert_close(ours, theirs)
    for found, expected in zip(together.places, alone.places, strict=True):
        assert torch.equal(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["latent", "shared", "own"])
@pytest.mark.parametrize("is_named", [True, False])
def test_few_blocks_of_a_long_list_have_what_all_of_it_has(
    is_named: bool, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a pass that ends at the evidence layer tells it: with the largest score of each block."""
    torch.manual_seed(5)
    B, H, N, M, D = 2, 4, 7, 6000, 8
    query, bias = 6 * torch.randn(B, H, N, D), torch.randn(B, M)
    knowledge = random_knowledge(layout, B, H, M, D)
    ranges = torch.tensor([[0, 5900], [40, M]], dtype=torch.int32)
    options: dict[str, Any] = {"knowledge_range": ranges, "scale": D**-0.5}
    lse, block_max = knowledge_lse(query, knowledge, knowledge_bias=bias, return_block_max=True, **options)
    attention = {"knowledge": knowledge, "bias": bias, "index": None, "int8_products": False, "backend": "cpu"}
    attention |= {"query": query, "lse": lse + 1, **options}
    named = torch.tensor([[29, 5999, 3], [4999, 41, -1]]) if is_named else None
    of_blocks, of_all = EvidenceRecorder(named), EvidenceRecorder(named)
    of_all.every_token(newest=5, **attention)
    monkeypatch.setattr(cpu, "forward", None)  # nothing reads all of it
    monkeypatch.setattr(blocks, "FEW", 2.0)  # of so few blocks most are read
    of_blocks.every_token(newest=5, block_max=block_max, **attention)
    of_blocks(block_max=block_max, **attention)
    of_all.masses.append(of_all.masses[-1]), of_all.places.append(of_all.places[-1])
    assert len(of_blocks.masses) == len(of_blocks.places) == 6
    for ours, theirs in zip(of_blocks.masses, of_all.masses, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)  # queries are absorbed in a batch, or alone
    for found, expected, mass in zip(of_blocks.places, of_all.places, of_all.masses, strict=True):
        assert torch.equal(found[mass > 0], expected[mass > 0])


@torch.no_grad()
def test_masses_of_few_tokens_are_made_at_a_time_also_with_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that is spread evenly needs the masses of all triples, of all tokens that are asked for at once."""
    query, key = torch.randn(2, 4, 7, 8) * 0.01, torch.randn(4, 6000, 8)
    knowledge = DenseKnowledge(key, key)
    lse, block_max = knowledge_lse(query, knowledge, return_block_max=True)
    attention: dict[str, Any] = {"knowledge": knowledge, "bias": 0.0, "knowledge_range": None, "index": None}
    attention |= {"query": query, "lse": lse, "block_max": block_max, "scale": 8**-0.5}
    attention |= {"int8_products": False, "backend": "cpu"}
    made: list[int] = []
    forward = cpu.forward
    monkeypatch.setattr(cpu, "forward", lambda call: made.append(len(call.lse) * call.num_tokens) or forward(call))
    monkeypatch.setattr("kblam.generation.evidence.MASSES_AT_ONCE", 50_000)
    recorder = EvidenceRecorder()
    recorder.every_token(newest=7, **attention)
    assert made == [8 * 6000, 6 * 6000], "four tokens of two rows, then three"
    assert len(recorder.masses) == 7


def test_what_a_pass_made_may_be_overwritten_by_the_next(world: World) -> None:
    """As a compiled step does it that is replayed: its results lie where the last one's lay."""
    recorder, own = EvidenceRecorder(), EvidenceRecorder()
    resident, memory = resident_for(world.attachment, world.kb), list[torch.Tensor]()

    def replay(**attention: Any) -> None:
        own(**attention)
        recorder(**attention)
        made = (recorder.masses, recorder.places)
        memory[:] = memory or [kind[-1] for kind in made]
        for lies, kind in zip(memory, made, strict=True):
            lies.copy_(kind[-1])
            kind[-1] = lies

    with torch.no_grad(), world.attachment.using(resident), world.attachment.observing(replay):
        for length in (4, 5, 6):
            world.model(torch.arange(length)[None], use_cache=False)
            recorder.close(length)
    assert not torch.equal(own.masses[0], own.masses[2])
    for kept, made in ((recorder.masses, own.masses), (recorder.places, own.places)):
        assert all(torch.equal(one, other) for one, other in zip(kept, made, strict=True))


def test_the_masses_of_one_token_add_up_to_the_share_of_knowledge(world: World) -> None:
    recorder, seen = EvidenceRecorder(), {}
    resident = resident_for(world.attachment, world.kb)

    def observe(**attention: Any) -> None:
        seen.update(attention)
        recorder(**attention)

    with torch.inference_mode(), world.attachment.using(resident), world.attachment.observing(observe):
        world.model(torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]]))
    (masses,) = recorder.masses
    share = knowledge_lse(
        **{name: seen[name] for name in ("knowledge", "knowledge_range", "scale")},
        knowledge_query=seen["query"][:, :, -1:],
        knowledge_bias=seen["bias"],
    )
    share = (share - seen["lse"][:, :, -1:]).exp().mean((1, 2))
    torch.testing.assert_close(masses.sum(-1), share)
    assert ((masses >= 0) & (masses <= 1)).all()
    assert (share < 1).all(), "the prompt has the rest"


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_pinned_backend_is_evidences_too(backend: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    attach(world.model, world.adapter, backend=backend)
    served: list[str] = []
    for each in evidence_mass.backends:

        def forward(call: Any, each: Any = each, real: Any = each.forward) -> Any:
            served.append(each.name)
            return real(call)

        monkeypatch.setattr(each, "forward", forward)
    ask(world.model, world.kb, QUESTION, tokenizer=world.tokenizer, max_new_tokens=2)
    assert set(served) == {backend}


def test_evidence_stays_between_0_and_1_and_is_sorted(world: World) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        with torch.no_grad():
            world.adapter.query_heads["0"].weight.normal_()
        answer = ask(world.model, world.kb, QUESTION, tokenizer=world.tokenizer, max_new_tokens=1)
        masses = [item.mass for item in answer.evidence]
        assert masses == sorted(masses, reverse=True)
        assert 0 < sum(masses) <= 1


@pytest.mark.parametrize("top", [0, 1, 2, 10])
def test_top_bounds_the_evidence(world: World, top: int) -> None:
    make_uniform(world.model, world.adapter)
    answer = ask(world.model, world.kb, QUESTION, tokenizer=world.tokenizer, max_new_tokens=1, top=top)
    assert len(answer.evidence) == min(top, len(FACTS))


def test_an_updated_triple_is_shown_as_it_is_now(world: World) -> None:
    make_prefer(world.model, world.adapter, world.encoder, FACTS[0])
    options = {"tokenizer": world.tokenizer, "max_new_tokens": 2, "top": 1}
    assert ask(world.model, world.kb, QUESTION, **options).evidence[0].triple.value == "Zirconia"
    world.kb.add(Triple("Amber Falcon", "capital", "Obsidian"))
    after = ask(world.model, world.kb, QUESTION, **options).evidence[0]
    assert (after.triple.value, len(world.kb)) == ("Obsidian", 3)
    assert after.mass > 0.99


def test_an_empty_knowledge_base_gives_no_evidence(world: World) -> None:
    with KnowledgeBase.create(None, world.encoder) as empty:
        answer = ask(world.model, empty, QUESTION, tokenizer=world.tokenizer, max_new_tokens=2)
    assert answer.evidence == ()
    assert answer.text


def test_a_triple_without_any_attention_is_no_evidence(world: World) -> None:
    """At this strength the others' shares are zero in float32, as those of unused rows are."""
    make_prefer(world.model, world.adapter, world.encoder, FACTS[0], strength=200.0)
    answer = ask(world.model, world.kb, QUESTION, tokenizer=world.tokenizer, max_new_tokens=1)
    assert [item.triple for item in answer.evidence] == [FACTS[0]]


def test_pruned_attention_names_the_same_triple(world: World) -> None:
    """With top_k the kernels see a gathered list; evidence still names rows of the knowledge base."""
    adapter = tiny_adapter(world.model, world.encoder, top_k=2)
    make_prefer(world.model, adapter, world.encoder, FACTS[2])
    attach(world.model, adapter)
    answer = ask(world.model, world.kb, QUESTION, tokenizer=world.tokenizer, max_new_tokens=2)
    assert answer.evidence[0].triple == FACTS[2]
    assert answer.evidence[0].mass > 0.99


def test_named_triples_are_kept_once_and_as_they_are(world: World) -> None:
    """A row's named ones come after the strongest: none twice, none where there is none, none of mass 0."""
    kb = KnowledgeBase.from_triples([Triple(f"n{at}", "capital", "Pine") for at in range(40)], world.encoder)
    with kb, torch.inference_mode():
        resident = resident_for(world.attachment, kb)
        plain, named = EvidenceRecorder(), EvidenceRecorder(torch.tensor([[3, 38, -1], [39, 0, 1], [-1, -1, -1]]))
        ids = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6], [5, 5, 5, 5]])
        for recorder in (plain, named):
            with world.attachment.using(resident), world.attachment.observing(recorder):
                world.model(ids)
    for row, (before, after) in enumerate(zip(plain.newest(), named.newest(), strict=True)):
        held = [(place, mass) for place, mass in after if mass > 0]
        assert held[: len(before)] == before
        wanted = {place for place in named.named[row].tolist() if place >= 0}
        assert {place for place, _ in held} == {place for place, _ in before} | wanted
        assert len({place for place, _ in held}) == len(held)
        assert all(0 < mass <= before[-1][1] for _, mass in held[len(before) :])


def test_a_named_triple_without_any_attention_is_looked_at_all_the_same() -> None:
    """A mass of 0 stands for none: exp of a score far below the others is 0 in float32."""
    mass = torch.zeros(1, 40)
    mass[0, :CANDIDATES] = 0.01
    masses, places = strongest(mass, torch.tensor([[39, -1]]))
    assert places[0, CANDIDATES] == 39
    assert 0 < masses[0, CANDIDATES] < 1e-30
    assert masses[0, CANDIDATES + 1] == 0


def test_the_rows_of_a_beam_search_keep_what_their_question_names(world: World) -> None:
    """`generate` repeats each row as often as it has beams, side by side."""
    kb = KnowledgeBase.from_triples([Triple(f"n{at}", "capital", "Pine") for at in range(40)], world.encoder)
    with kb, torch.inference_mode():
        plain = EvidenceRecorder()
        with world.attachment.using(resident_for(world.attachment, kb)), world.attachment.observing(plain):
            how = {"num_beams": 2, "do_sample": False, "max_new_tokens": 1}
            world.model.generate(ids := torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]]), **how)
        strong = {place for row in plain.newest() for place, _ in row}
        one, other = [place for place in range(40) if place not in strong][:2]
        recorder = EvidenceRecorder(torch.tensor([[one], [other]]))
        with world.attachment.using(resident_for(world.attachment, kb)), world.attachment.observing(recorder):
            world.model.generate(ids, **how)
    held = [{place for place, mass in row if mass > 0} for row in recorder.newest()]
    assert [{one, other} & row for row in held] == [{one}, {one}, {other}, {other}]
