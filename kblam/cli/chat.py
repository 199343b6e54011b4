"""`kblam chat`: questions and changes to the knowledge base, one line each, from a keyboard or a pipe."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from kblam import interrupts
from kblam.cli.ask import answer_record, check_text, print_evidence, print_plan
from kblam.cli.errors import INTERRUPTED, CommandError, exit_status, report
from kblam.cli.loading import ModelOptions, load, tell_model, told_model
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
from kblam.cli.output import err, out, print_json, waiting
from kblam.counts import count_of
from kblam.errors import KblamError
from kblam.serve import DEFAULT_TOKENS

if TYPE_CHECKING:
    from kblam.folder import LoadedModel

HELP = """\
A line is a question; it stands alone, without the ones before it.
  /add NAME | PROPERTY | VALUE   add a fact or change its value, and save it
  /remove NAME [| PROPERTY]      remove a fact, or all facts of a name
  /kb [WORDS]                    the knowledge base, or names with these words
  /help                          this list
  /quit                          leave (also Ctrl-D)"""
PROMPT = "> "


def chat(
    model: Model = None,
    adapter: AdapterSource = None,
    kb: Knowledge = None,
    top: Top = 3,
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
    """Ask one question after another, and change the knowledge base in between.

    A change counts from the next question on, without retraining. Lines can also come from a pipe; then the exit
    status is that of the first line that failed. With --json every line's outcome is one line of JSON.

    Example: kblam chat --kb facts.kb
    """
    import typer

    if sys.stdin is None:
        raise CommandError("standard input is closed; give chat a terminal or a pipe, or ask one question: kblam ask")
    options = ModelOptions(model, adapter, kb, device, dtype, backend, storage, plan, query_storage)
    with waiting("loading the model"):
        loaded = load(options, read_only=False)
    with loaded.knowledge_base:
        if not as_json:
            tell_model(options, loaded)
        names = told_model(options, loaded)
        status = Conversation(loaded, names, top, max_new_tokens, as_json, verbose).run(sys.stdin.isatty())
    if status:
        raise typer.Exit(status)


class Conversation:
    """One run of the loop; `names` are those of model and adapter."""

    def __init__(
        self,
        loaded: LoadedModel,
        names: tuple[str, str],
        top: int,
        max_new_tokens: int,
        as_json: bool,
        verbose: bool = False,
    ) -> None:
        from kblam.generation import Session

        self.loaded = loaded
        self.verbose = verbose
        self.kb = loaded.knowledge_base
        self.session = Session(loaded.model, self.kb, tokenizer=loaded.tokenizer)
        self.names = names
        self.top = top
        self.max_new_tokens = max_new_tokens
        self.as_json = as_json

    def run(self, interactive: bool) -> int:
        """Until /quit or the end of input; the exit status."""
        if interactive:
            err.print("/help lists the commands", style="dim", markup=False)
        first_failure = 0
        for line in _lines(interactive):
            try:
                if not self.take(line):
                    break
            except KblamError as error:
                report(str(error))
                if self.as_json:
                    print_json({"error": str(error)}, indent=None)
                first_failure = first_failure or exit_status(error)
            except KeyboardInterrupt:
                if not interactive:
                    return INTERRUPTED
                interrupts.taken()
                err.print("[yellow]stopped[/]")
        return 0 if interactive else first_failure

    def take(self, line: str) -> bool:
        """Does what one line says; False to leave."""
        word, _, rest = line.strip().partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/add": self.add,
            "/remove": self.remove,
            "/kb": self.about,
            "/help": self.help,
        }
        if word in ("/quit", "/exit"):
            return False
        if word in commands:
            commands[word](rest.strip())
        elif word.startswith("/"):
            raise CommandError(f"there is no command {word}; /help lists them")
        elif word:
            self.question(line.strip())
        return True

    def question(self, question: str) -> None:
        """Streams the answer, then shows the evidence."""
        check_text(question)
        began = time.monotonic()
        answer = self.session.ask(
            question,
            top=self.top,
            max_new_tokens=self.max_new_tokens,
            streamer=None if self.as_json else _streamer(self.session.tokenizer),
        )
        seconds = time.monotonic() - began
        if self.verbose:
            print_plan(self.loaded)
        if self.as_json:
            print_json(answer_record(question, answer, seconds, *self.names), indent=None)
            return
        print_evidence(answer, copies=self.session.attachment.config.pointer)

    def add(self, rest: str) -> None:
        """/add NAME | PROPERTY | VALUE"""
        from kblam.knowledge import Triple

        parts = [part.strip() for part in rest.split("|", 2)]
        if len(parts) != 3:
            raise CommandError("write /add NAME | PROPERTY | VALUE")
        name, property, value = parts
        with waiting("encoding"):
            done = self.kb.add(Triple(name, property, value))
        what = "added" if done.added else "changed" if done.updated else "known already"
        self._say(f"{what}; {count_of(len(self.kb))}", {"command": "add", "outcome": what, "triples": len(self.kb)})

    def remove(self, rest: str) -> None:
        """/remove NAME [| PROPERTY]"""
        name, bar, property = (part.strip() for part in rest.partition("|"))
        if not name or (bar and not property):
            raise CommandError("write /remove NAME, or /remove NAME | PROPERTY")
        count = self.kb.remove(name, property or None)
        if not count:
            raise CommandError(f"there is nothing of that name: {rest!r}; /kb WORDS finds names")
        outcome = {"command": "remove", "removed": count, "triples": len(self.kb)}
        self._say(f"removed {count:,}; {count_of(len(self.kb))}", outcome)

    def about(self, words: str) -> None:
        """/kb [WORDS]"""
        found = self.kb.search(words, limit=10) if words else []
        if self.as_json:
            record = {"command": "kb", **self._facts(), "found": [triple.to_record() for triple in found]}
            print_json(record, indent=None)
            return
        for key, value in ({} if words else self._facts()).items():
            out.print(f"{key}: {value}", markup=False, soft_wrap=True)
        for triple in found:
            out.print(f"the {triple.property} of {triple.name}: {triple.value}", markup=False, soft_wrap=True)
        if words and not found:
            out.print(f"no name holds {words!r}", markup=False, soft_wrap=True)

    def help(self, _: str) -> None:
        """/help"""
        self._say(HELP, {"command": "help", "text": HELP})

    def _facts(self) -> dict[str, Any]:
        path: Path | None = self.kb.path
        return {"knowledge_base": str(path), "triples": len(self.kb), "encoder": self.kb.encoder_spec}

    def _say(self, text: str, record: dict[str, Any]) -> None:
        if self.as_json:
            print_json(record, indent=None)
        else:
            out.print(Text(text, style="dim"), soft_wrap=True)


def _lines(interactive: bool) -> Iterator[str]:
    """Lines of standard input; with a prompt and a history where a person types them."""
    if not interactive:
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):  # not on Windows
        import readline  # noqa: F401 - gives input() its history and editing

    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            err.print()
            return


def _streamer(tokenizer: Any) -> Any:
    """Prints words as they are generated."""
    from transformers import TextStreamer

    class ToConsole(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            out.print(Text(text, style="bold"), end="\n" if stream_end else "", soft_wrap=True)

    return ToConsole(tokenizer, skip_prompt=True, skip_special_tokens=True)
