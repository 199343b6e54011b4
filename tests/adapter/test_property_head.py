"""The property head: what a question without a name is compared with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from kblam import AdapterConfig, KnowledgeAdapter
from kblam.adapter.confidence import Confidence
from kblam.adapter.config import FORMAT_VERSION
from kblam.adapter.property_head import PropertyHead
from kblam.errors import AdapterConfigError

SHAPE = {"embedding_dim": 6, "hidden_size": 8, "num_layers": 2, "num_heads": 2, "head_dim": 4, "layers": (0, 1)}
WEIGHTS = Confidence(mass=1, name=5, property=2, other=-1, share=0.5, bias=-3, best=1)


@pytest.mark.parametrize("cosine", [True, False])
def test_shares_are_a_softmax_of_scaled_cosines(cosine: bool) -> None:
    """In float64; the length of a vector does not count."""
    torch.manual_seed(0)
    head = PropertyHead(6, 5, cosine=cosine).double()
    questions, properties = torch.randn(4, 6, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
    asked, known = questions @ head.question.weight.T, properties @ head.property.weight.T
    cosines = (asked @ known.T) / asked.norm(dim=-1)[:, None] / known.norm(dim=-1)
    wanted = cosines * head.log_scale.exp()
    if cosine:
        assert head.log_cosine is not None
        lengths = questions.norm(dim=-1)[:, None] * properties.norm(dim=-1)
        wanted = wanted + questions @ properties.T / lengths * head.log_cosine.exp()
    wanted = wanted.log_softmax(-1)
    found = head.log_shares(questions * 7, head.keys(properties * 0.1))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    assert head.log_shares(questions[:0], head.keys(properties)).shape == (0, 9)


def test_a_question_may_come_with_layers_of_its_encoder() -> None:
    """The maps read all of it; the encoder's own cosine and the keys are of the sentence vectors."""
    torch.manual_seed(0)
    head = PropertyHead(6, 5, layers=2).double()
    with torch.no_grad():
        head.question.bias.normal_()
    questions, properties = torch.randn(4, 18, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
    asked, known = questions @ head.question.weight.T + head.question.bias, properties @ head.property.weight.T
    assert head.log_cosine is not None
    mapped = torch.nn.functional.cosine_similarity(asked[:, None], known[None], dim=-1) * head.log_scale.exp()
    own = torch.nn.functional.cosine_similarity(questions[:, None, 12:], properties[None], dim=-1)
    wanted = (mapped + own * head.log_cosine.exp()).log_softmax(-1)
    torch.testing.assert_close(head.log_shares(questions, head.keys(properties)).double(), wanted, rtol=1e-5, atol=1e-6)


def test_an_adapter_keeps_the_layers_of_its_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = SHAPE | {"property_width": 5, "property_cosine": True}
    config = AdapterConfig(**shape, property_layers=(2, 4), format_version=8)  # type: ignore[arg-type]
    assert config.format_version == 9, "older releases would read a question without its layers"
    adapter = KnowledgeAdapter(config)
    adapter.save_pretrained(tmp_path)
    again = KnowledgeAdapter.from_pretrained(tmp_path)
    assert (again.config.property_layers, again.config) == ((2, 4), config)
    assert adapter.property_head is not None
    assert again.property_head is not None
    assert adapter.property_head.question.weight.shape == (5, 18)
    assert adapter.property_head.question.bias is not None
    assert torch.equal(again.property_head.question.bias, adapter.property_head.question.bias)
    assert KnowledgeAdapter(AdapterConfig(**shape)).property_head.question.bias is None  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize("layers", [(0, 2), (4, 2), (2, 2), (2.0,), "24", None, tuple(range(1, 18)), (2**13,)])
def test_wrong_layers_are_refused(layers: object) -> None:
    with pytest.raises(AdapterConfigError, match="property_layers must be at most 16 different layers"):
        AdapterConfig(**SHAPE, property_width=5, property_cosine=True, property_layers=layers)  # type: ignore[arg-type]


def test_layers_without_a_head_are_refused() -> None:
    with pytest.raises(AdapterConfigError, match="property_layers need property_cosine"):
        AdapterConfig(**SHAPE, property_layers=(2,))  # type: ignore[arg-type]


def test_what_is_left_out_takes_no_share() -> None:
    torch.manual_seed(0)
    head = PropertyHead(6, 5)
    keys = head.keys(torch.randn(3, 6))
    questions = torch.randn(2, 6)
    without = torch.tensor([[False, True, False], [False, False, False]])
    shares = head.log_shares(questions, keys, without).exp()
    assert shares[0, 1] == 0
    torch.testing.assert_close(shares.sum(-1), torch.ones(2))
    torch.testing.assert_close(shares[0, [0, 2]], head.log_shares(questions[:1], keys[[0, 2]]).exp()[0])


def test_dropout_leaves_the_encoders_own_cosine_alone() -> None:
    """The maps see part of a question in training, and all of it after; what is fixed needs no noise."""
    torch.manual_seed(0)
    head = PropertyHead(64, 5)
    keys, questions = head.keys(torch.randn(3, 64)), torch.randn(2, 64)
    assert not torch.equal(head(questions, keys, dropout=0.5), head(questions, keys))
    with torch.no_grad():
        head.log_scale.fill_(-torch.inf)  # the maps say nothing
    assert torch.equal(head(questions, keys, dropout=0.5), head(questions, keys))


@pytest.mark.parametrize("cosine", [True, False])
def test_an_adapter_keeps_its_head(tmp_path: object, cosine: bool) -> None:
    torch.manual_seed(0)
    shape = SHAPE | {"property_width": 5, "property_cosine": cosine}
    adapter = KnowledgeAdapter(AdapterConfig(**shape, confidence=WEIGHTS, known_above=0.4))  # type: ignore[arg-type]
    adapter.save_pretrained(str(tmp_path))
    again = KnowledgeAdapter.from_pretrained(str(tmp_path))
    assert again.property_head is not None
    assert adapter.property_head is not None
    found = again.property_head.state_dict()
    assert found.keys() == {"question.weight", "property.weight", "log_scale"} | ({"log_cosine"} if cosine else set())
    for name, weight in adapter.property_head.state_dict().items():
        assert torch.equal(found[name], weight)
    assert KnowledgeAdapter(AdapterConfig(**SHAPE)).property_head is None  # type: ignore[arg-type]


def test_a_confidence_for_other_shares_is_left_out_and_told() -> None:
    """Up to format 9 shares of properties were others, and the weights were learned for those."""
    config = AdapterConfig(**SHAPE, confidence=WEIGHTS, known_above=0.4)  # type: ignore[arg-type]
    for version in (6, 9):
        with pytest.warns(UserWarning, match=f"of format {version}.*calibrate it anew"):
            found = AdapterConfig.from_dict(config.to_dict() | {"format_version": version})
        assert (found.confidence, found.known_above) == (None, None)
    by_mass = AdapterConfig(**SHAPE, known_above=0.4).to_dict() | {"format_version": 3}  # type: ignore[arg-type]
    assert AdapterConfig.from_dict(by_mass).known_above == 0.4
    assert AdapterConfig.from_dict(config.to_dict()).confidence == WEIGHTS
    assert config.to_dict()["format_version"] == FORMAT_VERSION == 10


def test_a_head_of_format_7_has_maps_alone(tmp_path: Path) -> None:
    """Its file has no such weight, and its config does not speak of it."""
    torch.manual_seed(0)
    old = AdapterConfig(**SHAPE, property_width=5, format_version=7)  # type: ignore[arg-type]
    KnowledgeAdapter(old).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["property_cosine"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = KnowledgeAdapter.from_pretrained(tmp_path)
    assert again.property_head is not None
    assert again.property_head.log_cosine is None
    assert again.config.format_version == 7
    # What has the weight is not for older releases, whatever it was made from.
    assert dataclasses.replace(old, property_cosine=True).format_version == 8


def test_an_older_adapter_keeps_a_confidence_that_it_is_given(tmp_path: object) -> None:
    old = AdapterConfig(**SHAPE, format_version=3)  # type: ignore[arg-type]
    adapter = KnowledgeAdapter(AdapterConfig.from_dict(old.to_dict()))
    adapter.config = dataclasses.replace(adapter.config, confidence=WEIGHTS, known_above=0.4)
    adapter.save_pretrained(str(tmp_path))
    again = KnowledgeAdapter.from_pretrained(str(tmp_path)).config
    assert (again.confidence, again.known_above) == (WEIGHTS, 0.4)
    assert dataclasses.replace(old, known_above=0.4).format_version == 3, "what older releases read stays theirs"
