"""The self-test: `python -m kblam.test [--json]` tries each part of the main job on this machine, in seconds.

It exits 0 when everything that is here works, 1 otherwise. A part that is not here is said to be off, not broken.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kblam.interrupts import leave

OK, OFF, FAIL = "ok", "off", "fail"
_STYLES = {OK: "green", OFF: "yellow", FAIL: "bold red"}
_MARKS, _PLAIN_MARKS = {OK: "✓", OFF: "-", FAIL: "✗"}, {OK: "+", OFF: "-", FAIL: "x"}


def mark_of(status: str, encoding: str | None) -> tuple[str, str]:
    """The sign of a status, one that the encoding has, and its style."""
    try:
        "".join(_MARKS.values()).encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return _PLAIN_MARKS[status], _STYLES[status]
    return _MARKS[status], _STYLES[status]


@dataclass(frozen=True)
class Outcome:
    """What one check found.

    Args:
        name: of the check.
        status: "ok"; "off" for an optional part that is not here; "fail" for one that the main job needs.
        detail: what was found, or the reason.
        fix: what to do about it.
    """

    name: str
    status: str
    detail: str
    fix: str = ""


class NotHereError(Exception):
    """An optional part that a check needs is not on this machine."""


def works(outcomes: list[Outcome]) -> bool:
    """Whether nothing that the main job needs is broken."""
    return all(outcome.status != FAIL for outcome in outcomes)


def run(report: Callable[[Outcome], None] | None = None) -> list[Outcome]:
    """Runs every check; `report` is told each outcome as it comes."""
    outcomes = []
    for name, check in CHECKS.items():
        began = time.monotonic()
        try:
            outcome = Outcome(name, OK, f"{check()} ({time.monotonic() - began:.1f} s)")
        except NotHereError as missing:
            outcome = Outcome(name, OFF, str(missing))
        except Exception as error:  # whatever a broken installation raises is the finding
            detail = f"{type(error).__name__}: {error}".splitlines()[0]
            outcome = Outcome(name, FAIL, detail, "`kblam doctor` checks the installation")
        outcomes.append(outcome)
        if report is not None:
            report(outcome)
    return outcomes


# --- the checks: each returns what it found, or raises ------------------------------------------------------


def kernels_agree() -> str:
    """Every backend that is here against the reference in float64."""
    import torch

    from kblam_kernels import DenseKnowledge, explain, rectangular_attention
    from kblam_kernels.dense.op import dense_attention

    tried = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        generator = torch.Generator().manual_seed(0)
        shapes = {"query": (2, 4, 5, 64), "prompt": (2, 2, 9, 64), "knowledge": (4, 37, 64)}
        made = {
            name: torch.randn(shape, generator=generator, dtype=torch.float32).to(device)
            for name, shape in shapes.items()
        }
        q, k, kappa = made["query"], made["prompt"], made["knowledge"]
        exact = DenseKnowledge(kappa.double(), kappa.double())
        expected = rectangular_attention(q.double(), k.double(), k.double(), exact, backend="reference")
        for backend in dense_attention.backends:
            knowledge = DenseKnowledge(kappa, kappa)
            if explain(q, k, k, knowledge, backend=backend.name).backend is None:
                continue
            got = rectangular_attention(q, k, k, knowledge, backend=backend.name)
            # float32 with tensor cores off loses a few units in the last place; a wrong kernel loses everything.
            error = (got.double() - expected).abs().max().item()
            if not error < 1e-3:
                raise RuntimeError(f"backend {backend.name} on {device} is off by {error:.1e} from the reference")
            tried.append(f"{backend.name} on {device} within {error:.0e}")
    return ", ".join(tried)


def empty_knowledge_changes_nothing() -> str:
    """A tiny Llama with an adapter and no knowledge gives its own logits, bit for bit, and others with knowledge."""
    import torch

    from kblam import AdapterConfig, KnowledgeAdapter, ProjectedKnowledge, attach, detach

    model = _tiny_llama()
    ids = torch.arange(3, 11)[None]
    config = AdapterConfig.for_model(model.config, embedding_dim=8, layer_frequency=1)
    with torch.inference_mode():
        alone = model(ids).logits
        attachment = attach(model, KnowledgeAdapter(config))
        if not torch.equal(model(ids).logits, alone):
            raise RuntimeError("attaching an adapter changed the logits without any knowledge in force")
        vectors = torch.randn(5, config.out_dim, dtype=model.dtype)
        with attachment.using(ProjectedKnowledge(vectors, vectors, config)):
            if torch.equal(model(ids).logits, alone):
                raise RuntimeError("knowledge in force did not change the logits")
        if not torch.equal(detach(model)(ids).logits, alone):
            raise RuntimeError("detach did not give the model back")
    return "attach, no knowledge, knowledge, detach"


def knowledge_base_in_memory() -> str:
    """Build, change and read back a small knowledge base with the default encoder."""
    import numpy as np

    from kblam.errors import EncoderUnavailableError
    from kblam.knowledge import KnowledgeBase, Triple, load_encoder

    try:
        encoder = load_encoder("minilm")
        dimension = encoder.dimension
    except EncoderUnavailableError as error:
        raise NotHereError(f"the default encoder is not here: {error}") from None
    triples = [Triple("Amber Falcon", "capital", "Zirconia"), Triple("Quiet Harbor", "capital", "Basalt")]
    with KnowledgeBase.from_triples(triples, encoder) as kb:
        kb.add(Triple("Amber Falcon", "capital", "Obsidian"))
        value = kb.find("Amber Falcon")[0].value
        question, *keys = encoder.encode(["What is the capital of Amber Falcon?", *(t.key_text for t in triples)])
        nearest = int(np.argmax([question @ key for key in keys]))
        if (len(kb), value, nearest) != (2, "Obsidian", 0):
            raise RuntimeError(f"expected 2 triples, Obsidian and triple 0; got {len(kb)}, {value}, {nearest}")
    return f"{encoder.spec}, {dimension} numbers a vector"


def demo_model_answers() -> str:
    """The shipped model finds one fact among others, names it, and refuses what is not there."""
    import torch

    from kblam import KnowledgeAdapter, KnowledgeBase, Triple, ask_many, attach
    from kblam.errors import EncoderUnavailableError
    from kblam.knowledge import load_encoder
    from kblam.models.loading import load_base, load_tokenizer, quiet_libraries
    from kblam.shipped import DEMO, demo_is_shipped

    if not demo_is_shipped():
        raise NotHereError(
            "the tiny model is not part of this installation; `python -m kblam.demo.tiny.train` makes it"
        )
    quiet_libraries()
    adapter, tokenizer = KnowledgeAdapter.from_pretrained(DEMO / "adapter"), load_tokenizer(DEMO / "model")
    model = load_base(DEMO / "model", dtype=torch.float32)
    attach(model, adapter)
    # In the words that this model knows.
    facts = [
        Triple("Amber Falcon", "color", "pale green with stars"),
        Triple("Quiet Harbor", "color", "deep red with stripes"),
        Triple("Silver Meadow", "weather", "gentle rain before dawn"),
    ]
    questions = [f"What is the {fact.property} of {fact.name}?" for fact in facts]
    try:
        kb = KnowledgeBase.from_triples(facts, load_encoder("minilm"))
    except EncoderUnavailableError as error:
        raise NotHereError(f"the default encoder is not here: {error}") from None
    with kb:
        missing = "What is the food of Amber Falcon?"
        *answers, refusal = ask_many(model, kb, [*questions, missing], tokenizer=tokenizer, max_new_tokens=24)
    for fact, question, answer in zip(facts, questions, answers, strict=True):
        found = answer.evidence[0].triple.name if answer.evidence else "nothing"
        if fact.value not in answer.text or found != fact.name:
            raise RuntimeError(f"{question} was answered {answer.text!r}, from {found}; expected {fact.value!r}")
    if not refusal.refused:
        raise RuntimeError(f"{missing} has no answer, and got {refusal.text!r}")
    return f"{len(answers)} of {len(answers)} facts, 1 refusal"


CHECKS: dict[str, Callable[[], str]] = {
    "kernels": kernels_agree,
    "attach": empty_knowledge_changes_nothing,
    "knowledge base": knowledge_base_in_memory,
    "tiny model": demo_model_answers,
}


def _tiny_llama() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    # Its own stream of random numbers: the caller's is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # those of GPUs draw nothing here
        config = LlamaConfig(
            vocab_size=32,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        return LlamaForCausalLM(config).eval()


def main(arguments: list[str] | None = None) -> int:
    """The command: prints the checklist and returns the exit status."""
    import argparse

    from rich.console import Console
    from rich.text import Text

    parser = argparse.ArgumentParser(prog="python -m kblam.test", description="Tries each part on this machine.")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    as_json = parser.parse_args(arguments).json
    console = Console(stderr=as_json, highlight=False)

    def show(outcome: Outcome) -> None:
        mark, style = mark_of(outcome.status, getattr(console.file, "encoding", None))
        line = Text.assemble((f"{mark} ", style), (f"{outcome.name}: ", "bold"), outcome.detail)
        console.print(line, soft_wrap=True)

    with console.status("testing"):
        outcomes = run(show)
    fine = works(outcomes)
    if as_json:
        checks = [dataclasses.asdict(outcome) for outcome in outcomes]
        sys.stdout.write(json.dumps({"works": fine, "checks": checks}, indent=2, ensure_ascii=False) + "\n")
    else:
        console.print("[bold green]passed[/]" if fine else "[bold red]failed[/]: see `kblam doctor`")
    return 0 if fine else 1


if __name__ == "__main__":
    leave(main)
