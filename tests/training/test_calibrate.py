"""What the confidence is learned from, and an adapter that gets another one."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kblam.adapter import KnowledgeAdapter
from kblam.adapter.confidence import Signs
from kblam.adapter.property_head import PropertyHead
from kblam.adapter.signature import Signature
from kblam.data.entities import Entity
from kblam.data.open_world import build_world
from kblam.data.properties import TYPED
from kblam.errors import EncoderError, UnsupportedModelError
from kblam.knowledge import KnowledgeBase, Triple
from kblam.models.judging import Candidate, Judged, judge_of
from kblam.training import calibrate, calibration_data, calibration_run
from kblam.training.material import Material
from kblam.training.questions import Asked, Facts, Kind
from kblam.training.run import Trainer
from tests.fakes import DeepEncoder, HashingEncoder
from tests.training.conftest import small, small_head

ANVIL = Entity("Anvil", {"price": "1", "weight": "2", "Description": "3"})  # as a column may be named
HAMMER = Entity("Hammer", {"color": "4"})
FACTS = Facts([ANVIL, HAMMER])
PRICE, WEIGHT, DESCRIPTION, COLOR = range(4)
FOUND = [(WEIGHT, 0.5), (PRICE, 0.4), (DESCRIPTION, 0.1)]


class Noting:
    """A judge who notes what it compares with, and gives each candidate its mass as a sign."""

    def __init__(self) -> None:
        self.properties: list[list[str]] = []

    def compare_with(self, properties: list[str]) -> None:
        self.properties.append(properties)

    def signs(self, judged: list[Judged]) -> list[list[Signs]]:
        return [[Signs(one.mass, 0, 0, 0, 0) for one in each.candidates] for each in judged]


def case_of(facts: tuple[int, ...], hidden: tuple[int, ...] = ()) -> calibrate.Case:
    kind = Kind.SINGLE if len(facts) == 1 else Kind.OPEN if facts else Kind.GENERAL
    shown = calibrate._Shown(Asked("anything", kind, facts), 0, hidden)
    judge: Any = Noting()
    (case,) = calibrate._cases(judge, FACTS, [shown], [FOUND])
    assert [one.mass for one in case.signs] == [mass for _, mass in FOUND]
    return case


@pytest.mark.parametrize(
    ("facts", "hidden", "right", "is_known", "counts"),
    [
        ((PRICE,), (), 1, True, True),
        ((PRICE,), (PRICE,), None, False, True),
        ((COLOR,), (), None, True, True),  # known and not found
        ((), (), None, False, True),
        ((PRICE, WEIGHT, DESCRIPTION), (), 2, True, False),  # a description answers for the whole
        ((PRICE, WEIGHT), (), None, False, False),
    ],
)
def test_which_triple_is_right(
    facts: tuple[int, ...], hidden: tuple[int, ...], right: int | None, is_known: bool, counts: bool
) -> None:
    assert case_of(facts, hidden)[1:] == (right, is_known, counts)


def test_a_property_that_is_hidden_is_mostly_one_that_others_have() -> None:
    """As the cells of a table are empty; the rest asks for what no entity of the base has."""
    asked = Asked("anything", Kind.SINGLE, (PRICE,))
    others = Facts([ANVIL, *(Entity(f"Hammer {n}", {"color": "x"}) for n in range(5000))])
    draw, others_have_it = random.Random(1), []
    for _ in range(300):
        others_have_it.append("price" in calibrate._properties(others, [calibrate._Shown(asked, 0, (PRICE,))], draw))
        assert {"price", "weight", "Description"} <= set(
            calibrate._properties(others, [calibrate._Shown(asked, 0)], draw)
        )
    assert sum(others_have_it) / 300 == pytest.approx(calibrate._OF_OTHERS, abs=0.08)


def test_of_many_triples_whole_names_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_data, "MOST_OWN", 30)
    triples = [Triple(f"Tool {n % 50}", f"part {n // 50}", "x") for n in range(200)]
    told: list[str] = []
    drawn = calibration_data.some(triples, 1, told.append)
    counts = Counter(triple.name for triple in drawn)
    assert set(counts.values()) == {4}, "what else a name has makes a question for a missing fact hard"
    assert len(drawn) == 32
    assert told == ["of 200 triples, 32 are looked at: those of 8 names drawn at random"]
    assert drawn == calibration_data.some(triples, 1, told.append)
    assert drawn != calibration_data.some(triples, 2, told.append)
    assert calibration_data.some(triples[:30], 1, told.append) == triples[:30]
    of_one = [Triple("Tool", f"part {n}", "x") for n in range(90)]
    assert len(set(calibration_data.some(of_one, 1, told.append))) == 30, "a name may be a base of its own"


def test_few_questions_at_a_time_are_asked_of_one_base() -> None:
    judge: Any = Noting()
    shown = [calibrate._Shown(Asked("anything", Kind.SINGLE, (PRICE,)), 0) for _ in range(60)]
    assert len(calibrate._cases(judge, FACTS, shown, [FOUND] * 60)) == 60
    assert len(judge.properties) == 8


def test_an_adapter_gets_another_confidence_and_keeps_its_weights(
    prepared: Callable[..., Material], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    material = prepared()
    torch.manual_seed(0)
    before = KnowledgeAdapter(dataclasses.replace(material.adapter_config, background=("age",), format_version=3))
    entities = [Entity(f"Machine {n}", {"torque": "9", "weight": f"{n} tons", "color": "red"}) for n in range(8)]
    asked = list[Any]()
    monkeypatch.setattr(calibration_run, "load_base", lambda name, **given: (asked.append(given), material.model)[1])
    monkeypatch.setattr(calibration_run, "load_tokenizer", lambda name: material.texts.tokenizer)
    monkeypatch.setattr(calibration_data, "held_out_entities", lambda seed: entities)
    encoder = HashingEncoder(before.config.embedding_dim)
    after, found = calibration_run.recalibrate(before, "tiny", encoder, cache=tmp_path, questions=40, **small_head())
    assert asked == [{"device": None}], "in the dtype that `ask` computes in"
    assert (after.config.confidence, after.config.known_above) == (found.confidence, calibrate.KNOWN_ABOVE)
    assert after.config.format_version == 10  # older releases read the weights of other shares
    assert after.config.background == tuple(TYPED)
    for name, weight in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], weight)
    assert before.config.confidence is None


def test_a_head_reads_the_layers_of_an_encoder_that_shows_them(
    prepared: Callable[..., Material], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the judge does, in the calibration and in use; another encoder is refused by name, not read wrongly."""
    material = prepared()
    entities = build_world(0, 40, 0).train
    monkeypatch.setattr(calibration_data, "held_out_entities", lambda seed: entities)
    encoder = DeepEncoder(material.adapter_config.embedding_dim)
    data = calibration_data.CalibrationData.gather(encoder, tmp_path, questions=30, property_questions=200)
    before, tokenizer = KnowledgeAdapter(material.adapter_config), material.texts.tokenizer
    after, _ = calibration_run.calibrated(before, material.model, tokenizer, data, property_steps=5)
    assert (after.config.property_layers, after.config.format_version) == ((2, 4), 10)
    assert after.property_head is not None
    assert after.property_head.question.in_features == 3 * encoder.dimension
    asked = [Judged("What is the price of Anvil 3?", [Candidate("Anvil 3", "price", 0.5)])]
    with KnowledgeBase.from_triples([Triple("Anvil 3", "price", "5")], encoder) as base:
        judge = judge_of(after, base)
        assert judge is not None
        read, forward = list[torch.Tensor](), PropertyHead.forward
        with monkeypatch.context() as noting:
            noting.setattr(
                PropertyHead, "forward", lambda self, *given: (read.append(given[0]), forward(self, *given))[1]
            )
            judge.verdicts(asked)
    wanted = encoder.encode_layers(["What is the price of it?"], (2, 4))
    torch.testing.assert_close(read[0], torch.from_numpy(wanted))
    plain = HashingEncoder(encoder.dimension)
    with (
        KnowledgeBase.from_triples([Triple("Anvil 3", "price", "5")], plain) as base,
        pytest.raises(EncoderError, match=r"hashing:0 gives sentence vectors alone"),
    ):
        judge_of(after, base)
    # A head learned anew from such an encoder has none.
    data = calibration_data.CalibrationData.gather(plain, tmp_path, questions=30, property_questions=200)
    again, _ = calibration_run.calibrated(after, material.model, tokenizer, data, property_steps=5)
    assert again.config.property_layers == ()


def test_weights_stay_as_wide_as_they_were_learned(prepared: Callable[..., Material]) -> None:
    """Also beside a base in bfloat16, to which an adapter's query heads are rounded where it is attached."""
    material = prepared()
    torch.manual_seed(0)
    before = KnowledgeAdapter(material.adapter_config)
    with torch.no_grad():
        for head in before.query_heads.values():
            head.get_parameter("weight").normal_()
    model, texts = material.model.bfloat16(), material.texts
    after, _ = calibration_run.calibrated(before, model, texts.tokenizer, material.calibration, property_steps=2)
    for name, weight in before.state_dict().items():
        if not name.startswith("property_head"):
            assert torch.equal(after.state_dict()[name], weight), name


def test_an_adapter_of_another_model_is_told_before_anything_is_encoded(
    prepared: Callable[..., Material], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    material = prepared()
    monkeypatch.setattr(calibration_run, "load_base", lambda name, **options: material.model)
    monkeypatch.setattr(calibration_run, "load_tokenizer", lambda name: material.texts.tokenizer)
    monkeypatch.setattr(calibration_data.CalibrationData, "gather", lambda *_, **__: pytest.fail("it encodes"))
    config, encoder = material.adapter_config, HashingEncoder(material.adapter_config.embedding_dim)
    assert config.base_signature is not None
    signature = Signature(tuple(-one for one in config.base_signature.numbers))
    for changes, told in (({"hidden_size": 64}, "hidden_size=64"), ({"base_signature": signature}, "other weights")):
        other = KnowledgeAdapter(dataclasses.replace(config, **changes))
        with pytest.raises(UnsupportedModelError, match=told):
            calibration_run.recalibrate(other, "tiny", encoder, cache=tmp_path)


@pytest.mark.parametrize("saved", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("flags", [["avx2"], ["avx2", "avx512_bf16"]])
def test_a_confidence_is_learned_in_the_dtype_of_the_answers(
    flags: list[str], saved: torch.dtype, prepared: Callable[..., Material], tmp_path: Path, monkeypatch: Any
) -> None:
    """That of the checkpoint; but a processor without bfloat16 takes float32, as `ask` advises there."""
    material, used = prepared(), list[torch.dtype]()
    adapter = KnowledgeAdapter(material.adapter_config)
    material.model.to(saved).save_pretrained(tmp_path / "base")
    monkeypatch.setattr("kblam_kernels.tools.env.cpu", lambda: {"flags": flags})
    monkeypatch.setattr(calibration_run, "load_tokenizer", lambda name: material.texts.tokenizer)
    monkeypatch.setattr(
        calibration_run, "calibrated", lambda adapter, model, *_, **__: used.append(model.dtype) or (adapter, None)
    )
    encoder = HashingEncoder(adapter.config.embedding_dim)
    calibration_run.recalibrate(
        adapter, str(tmp_path / "base"), encoder, cache=tmp_path, questions=20, device="cpu", **small_head()
    )
    is_slow = saved == torch.bfloat16 and "avx512_bf16" not in flags
    assert used == [torch.float32 if is_slow else saved]


def test_a_run_ends_as_calibrate_does(
    prepared: Callable[..., Material], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command makes what two make: bit for bit, with the same questions and the base in the same dtype."""
    material = prepared()
    told, again = list[str](), list[str]()
    trainer = Trainer(small(), material, tmp_path / "run", say=told.append)
    trainer.fit()
    whole = trainer.finish()
    monkeypatch.setattr(calibration_run, "load_base", lambda name, **options: material.model)
    monkeypatch.setattr(calibration_run, "load_tokenizer", lambda name: material.texts.tokenizer)
    written = KnowledgeAdapter.from_pretrained(tmp_path / "run")
    none = {"confidence": None, "known_above": None, "property_width": 0, "property_cosine": False}
    before = dataclasses.replace(written.config, **none)  # type: ignore[arg-type]
    bare = KnowledgeAdapter(before)
    bare.load_state_dict({name: w for name, w in written.state_dict().items() if not name.startswith("property_head")})
    after, _ = calibration_run.recalibrate(
        bare,
        "tiny",
        HashingEncoder(before.embedding_dim),
        cache=tmp_path / "other cache",
        questions=small().calibration_questions,
        seed=small().seed,
        say=again.append,
        **small_head(),
    )
    begins = [line for line in told if line.startswith(("the property head", "the confidence"))]
    assert begins == again
    assert begins[0] == "the property head learns from 200 questions"
    assert len(begins) == 2
    assert after.config == whole.config
    for name, weight in whole.state_dict().items():
        assert torch.equal(after.state_dict()[name], weight), name


def test_weights_are_found_where_the_cost_is_known_to_a_few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many questions rounding hides what a step gains, and no slope of a fixed size may ever be reached."""
    draw, exact = random.Random(0), torch.Tensor.log_softmax
    cases = [
        calibrate.Case(
            [Signs(draw.random(), named, draw.randrange(2), 0, -draw.random()) for named in (1, 0)],
            draw.choice((0, 0, 0, 1, None)),
            True,
        )
        for _ in range(2000)
    ]
    wanted = calibrate._most_likely(cases)
    monkeypatch.setattr(torch.Tensor, "log_softmax", lambda self, dim: exact(self, dim).float().double())
    torch.testing.assert_close(calibrate._most_likely(cases), wanted, rtol=0, atol=1e-2)
