"""`kblam ask`: one question, one answer, and the triples it rests on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from kblam.cli.errors import CommandError
from kblam.cli.loading import ModelOptions, load, tell_model, told_model, warn
from kblam.cli.options import (
    AdapterSource,
    AsJson,
    Backend,
    Device,
    Dtype,
    Knowledge,
    MaxNewTokens,
    Model,
    PlanPin,
    Precision,
    QueryStorage,
    Storage,
    Top,
    Verbose,
)
from kblam.cli.output import err, evidence_lines, out, print_json, waiting
from kblam.cli.tables import hanging, wrapped
from kblam.counts import many
from kblam.serve import DEFAULT_TOKENS

if TYPE_CHECKING:
    from kblam.folder import LoadedModel
    from kblam.generation import Answer


def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In natural language.")],
    model: Model = None,
    adapter: AdapterSource = None,
    kb: Knowledge = None,
    top: Top = 5,
    max_new_tokens: MaxNewTokens = DEFAULT_TOKENS,
    device: Device = None,
    dtype: Dtype = Precision.auto,
    backend: Backend = "auto",
    storage: Storage = "auto",
    query_storage: QueryStorage = "auto",
    plan: PlanPin = "auto",
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """Answer a question from a knowledge base, and show which triples the answer rests on.

    Without --model it is SmolLM2-135M-Instruct that answers, with the adapter that comes with kblam.

    Example: kblam ask "What is the color of Amber Falcon?" --kb facts.kb
    """
    from kblam.knowledge.fields import can_be_seen

    if not can_be_seen(question):
        raise CommandError("the question is empty; ask something")
    check_text(question)
    options = ModelOptions(model, adapter, kb, device, dtype, backend, storage, plan, query_storage)
    with waiting("loading the model"):
        loaded = load(options, read_only=True)
    with loaded.knowledge_base as knowledge_base:
        from kblam.generation import Session

        session = Session(loaded.model, knowledge_base, tokenizer=loaded.tokenizer)
        began = time.monotonic()
        with waiting("answering"):
            answer = session.ask(question, top=top, max_new_tokens=max_new_tokens)
        seconds = time.monotonic() - began
        if verbose:
            print_plan(loaded)
        if as_json:
            print_json(answer_record(question, answer, seconds, *told_model(options, loaded)))
            return
        tell_model(options, loaded)
    out.print(Text(answer.text or "(no text)", style="bold"), soft_wrap=True)
    print_evidence(answer, copies=loaded.attachment.config.pointer)


def check_text(question: str) -> None:
    """Refuses bytes that the terminal's encoding has no characters for, which Python passes on as half surrogates."""
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise CommandError(
            f"the question holds bytes that are no text ({ascii(question[error.start : error.end])[:40]}); "
            "type it in the encoding of the locale: UTF-8 is best"
        ) from None


def answer_record(question: str, answer: Answer, seconds: float, model: str, adapter: str) -> dict[str, Any]:
    """An answer as plain values."""
    return {
        "question": question,
        "answer": answer.text,
        "from_base": answer.from_base,
        "is_cut": answer.is_cut,
        **answer.basis(),
        "model": model,
        "adapter": adapter,
        "num_tokens": answer.num_tokens,
        "seconds": round(seconds, 3),
    }


def print_plan(loaded: LoadedModel) -> None:
    """How the knowledge of the last question was read, with the reasons, on stderr."""
    from kblam.models.copies import resident_for

    plan = resident_for(loaded.attachment, loaded.knowledge_base).plan
    err.print(Text(wrapped(str(plan), err), style="dim"), soft_wrap=True)


def print_evidence(answer: Answer, *, copies: bool) -> None:
    """The bars, and what is to be said of the answer; for a refusal they show where its attention went.

    Args:
        copies: whether the adapter copies values, with its pointer.
    """
    from kblam.generation.drawing import INDENT, SHARE

    heading = "refused; it looked at" if answer.refused else "evidence"
    out.print(Text(f"{heading} ({SHARE}):", style="dim"), soft_wrap=True)
    for line in evidence_lines(answer.evidence):
        out.print(hanging(line, INDENT), soft_wrap=True)
    if answer.is_cut:
        warn(f"the answer is cut after {many(answer.num_tokens, 'token')}; a larger --max-new-tokens lets it go on")
    if copies or answer.refused or answer.from_base or not answer.evidence:
        return
    if (value := answer.evidence[0].triple.value).casefold() not in answer.text.casefold():
        warn(
            f"the answer does not say {value!r} as it is stored: this adapter has no pointer that copies, and "
            "the model says only words that it learned to say"
        )
