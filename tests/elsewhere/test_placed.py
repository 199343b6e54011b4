"""Knowledge where its layers compute, tokens where the model reads them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module

from kblam import KnowledgeBase, Session, Triple
from kblam.data.drawing import Style, base_quiz
from kblam.evaluation.baselines import run_baseline
from kblam.evaluation.general import perplexity
from kblam.evaluation.heat import heat_of
from kblam.evaluation.layers import evidence_by_layer
from kblam.models import attach
from kblam.models.copies import resident_for
from tests.elsewhere.device import Elsewhere
from tests.fakes import HashingEncoder
from tests.generation.asking import asking, byte_bpe
from tests.models.tiny import tiny_adapter, tiny_model

CURRENCY = "What is the currency of France?"
UNKNOWN = "What is the currency of Mars?"


def dispatched(model: Any, there: torch.device) -> None:
    """As a device_map does it that keeps the embeddings elsewhere than the layers; here they stay on the CPU."""
    decoder = model.model
    for part in (*decoder.layers, decoder.norm, decoder.rotary_emb, model.lm_head):
        add_hook_to_module(part.to(there), AlignDevicesHook(execution_device=there))
    add_hook_to_module(model, AlignDevicesHook(io_same_device=True))


def test_tokens_lie_where_the_model_reads_them(there: torch.device) -> None:
    with asking(byte_bpe()) as found:
        expected = found.session().ask(CURRENCY, max_new_tokens=40).text
        dispatched(found.model, there)
        session: Session = found.session()
        assert session.attachment.device == there
        assert session.attachment.input_device == torch.device("cpu")
        assert session.prompt(CURRENCY)["input_ids"].device.type == "cpu"
        assert session.ask(CURRENCY, max_new_tokens=40).text == expected
        assert found.session(unknown="base").ask(UNKNOWN, max_new_tokens=4).from_base
        assert session.decisions([CURRENCY])[0].is_known


def test_projectors_without_weights_write_where_the_copy_lies(there: torch.device) -> None:
    """They compute where the store's vectors are. Rows that do not follow each other are written by an index."""
    wide = 96
    model = tiny_model()
    attachment = attach(model, tiny_adapter(model, projector="identity", embedding_dim=wide))
    model.to(there)
    facts = [Triple(f"thing {number}", "color", f"value {number}") for number in range(9)]
    with KnowledgeBase.from_triples(facts, HashingEncoder(wide)) as kb:
        resident_for(attachment, kb)
        kb.add([Triple(f"thing {number}", "color", "another") for number in (1, 4, 8)])
        resident = resident_for(attachment, kb)
        assert all(isinstance(buffer, Elsewhere) for buffer in resident.buffers.values())
        assert {one.value for one in resident.triples_at([1, 4, 8])} == {"another"}


@pytest.mark.parametrize("reads", ["layers", "perplexity", "heat", "baseline"])
def test_evaluation_puts_tokens_where_the_model_reads_them(there: torch.device, reads: str) -> None:
    facts = [(f"Thing {n}", prop, f"{prop} {n}") for n in range(3) for prop in ("colour", "price")]
    quiz = base_quiz(facts, Style("The {property} of {name} is {value}."), questions=4, name="small")
    with asking(byte_bpe()) as found:
        dispatched(found.model, there)
        subject: Any = found
        if reads == "layers":
            assert evidence_by_layer(subject, found.kb, [CURRENCY])
        elif reads == "perplexity":
            assert perplexity(subject, found.kb, [CURRENCY]) > 1
        elif reads == "heat":
            assert heat_of(subject, found.kb, CURRENCY, asked=[("France", "currency")]).question == CURRENCY
        else:
            run_baseline("in-context", subject, found.encoder, [quiz], refusal="I do not know.")
