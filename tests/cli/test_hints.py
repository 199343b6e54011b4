"""Commands and options of other tools: they work, or the answer is the command of ours."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import kblam as package
from kblam.cli import hints
from kblam.errors import EncoderUnavailableError, messages_name_flags, runs
from kblam.knowledge.columns import MAPPING, READING
from kblam.knowledge.encoders.loading import load_recorded_encoder
from kblam.shipped import SMOLLM2_ADAPTER
from tests.cli.conftest import kblam
from tests.cli.test_docs import COMMANDS
from tests.fakes import HashingEncoder

PACKAGE = Path(package.__file__).parent
UPSTREAM = (Path(__file__).parents[2] / "docs" / "upstream.md").read_text(encoding="utf-8")


def commands_in(text: str) -> list[list[str]]:
    """The words after `kblam` of each command line in a text."""
    return [shlex.split(found)[1:] for found in re.findall(r"kblam [a-z][^;,()`|]*", text)]


def test_every_command_that_a_hint_names_exists() -> None:
    texts = [*hints.COMMANDS.values(), *hints.OPTIONS.values(), UPSTREAM]
    named = [words for text in texts for words in commands_in(text)]
    assert len(named) > len(hints.COMMANDS)
    for words in named:
        first = hints.ALIASES.get(words[0], words[0])
        path = (first, words[1]) if first in ("kb", "data") else (first,)
        assert path in COMMANDS, words
        known = {name for parameter in COMMANDS[path].params for name in parameter.opts}
        options = {word for word in words[len(path) :] if word.startswith("--")}
        assert path == ("train",) or options <= known, (words, options - known)


def test_no_hint_is_about_what_exists() -> None:
    taken = {hints.plain(path[0]) for path in COMMANDS}
    assert not taken & set(hints.COMMANDS)
    for path, command in COMMANDS.items():
        options = {hints.plain(name) for parameter in command.params for name in parameter.opts if name[:2] == "--"}
        # An option of one command may be missing in another.
        if path in (("ask",), ("kb", "build"), ("integrate",)):
            assert not options & set(hints.OPTIONS), path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ask hello --kb_path x", "--kb facts.kb"),
        ("ask hello --kb-path=x", "--kb facts.kb"),
        ("ask --question hello --kb x", 'kblam ask "QUESTION" --kb facts.kb'),
        ("kb build --input x -o y", "kblam kb build FILE -o facts.kb"),
        ("eval --hf_token x", "hf auth login"),
        ("build x", "kblam kb build FILE -o facts.kb"),
        ("kb update x", "kblam kb build FILE -o facts.kb"),
        ("generate_kb_embeddings.py", "kblam kb build FILE -o facts.kb"),
        ("accuracy", "kblam eval --kb facts.kb"),
        ("kb remove facts.kb --name x", "kblam kb remove facts.kb NAME"),
        ("kb ls facts.kb", "kblam kb list facts.kb"),
        ("ask facts.kb hello", "the question stands in quotes, and the knowledge base is --kb facts.kb"),
        ("ask who is it", "the question stands in quotes"),
        ("chat facts.kb", "the knowledge base is --kb facts.kb"),
        ("eval facts.kb", "the knowledge base is --kb facts.kb"),
        ("serve tiny facts.kb", "the knowledge base is --kb facts.kb"),
        ("kb build a.csv b.csv -o facts.kb", "kblam data import FILE FILE -o facts.kb takes several"),
        ("kb add facts.kb a.csv b.csv", "kblam data import FILE FILE -o facts.kb takes several"),
        ("train -o x --num_train_epochs 3", "kblam train --retrieval_steps and --max_steps"),
        ("train -o x --resume_from_checkpoint x", "kblam train --resume goes on"),
        ("train -o x --batch_size 8", "--per_device_train_batch_size or --retrieval_batch_size?"),
        ("help", "kblam --help"),
        ("version", "kblam --version"),
    ],
)
def test_what_other_tools_call_it_is_answered_by_ours(line: str, words: str) -> None:
    run = kblam(*line.split())
    assert run.status == 2
    assert words in " ".join(run.stderr.replace("│", " ").split())
    assert run.stdout == ""


@pytest.mark.parametrize("flag", ["--hf_model_spec", "--dataset_dir", "--total_steps", "--lr"])
def test_settings_of_upstreams_training_are_answered_too(flag: str, tmp_path: Path) -> None:
    kblam("train", flag, "3", "-o", tmp_path / "new").failed(2, f"there is no setting {flag}; ", "--")


def test_evaluate_is_eval_and_underscores_are_dashes(model_folder: Path) -> None:
    shown = [kblam(name, "--help").ok().stdout.splitlines() for name in ("evaluate", "eval")]
    assert shown[0][2:] == shown[1][2:], "all but the line that says how it was called"
    kblam("ask", "motto ?", "--model", model_folder, "--max_new_tokens", 2).ok()


def test_a_model_folder_is_integrated_by_options_too(
    base: Path, adapter: Path, kb: Path, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"--model": base, "--adapter": adapter, "--kb": kb}
    named = [word for pair in parts.items() for word in pair]
    for number, words in enumerate(([*named], [base, *named[2:]], [kb, *named[:4]], [base, kb, *named[2:4]])):
        kblam("integrate", *words, "-o", tmp_path / str(number)).ok()
        assert kblam("kb", "info", tmp_path / str(number), "--json").ok().json["triples"] == 3
    monkeypatch.setattr("kblam.shipped.SMOLLM2_ADAPTER", smollm2)
    for number, words in enumerate((["smollm2", kb], ["--model", "smollm2", "--kb", kb])):
        kblam("integrate", *words, "-o", tmp_path / f"shipped {number}").ok()
    new = tmp_path / "new"
    missing = ["integrate", "--model", base, "--kb", kb, "-o", new]
    kblam(*missing).failed(2, f"the adapter is missing: kblam integrate {base} ADAPTER {kb} -o {new}", "kblam train")
    kblam("integrate", "--kb", kb, "-o", new).failed(2, "the model is missing", "kblam integrate MODEL ADAPTER")
    kblam("integrate", base, adapter, "-o", new).failed(2, "the knowledge base is missing")
    kblam("integrate", base, adapter, kb, "x", "-o", new).failed(2, "x is too much")
    assert not new.exists()
    assert SMOLLM2_ADAPTER.is_dir()


def test_a_folder_is_updated_by_building_into_it(
    model_folder: Path, facts_file: Path, hashing: HashingEncoder, tmp_path: Path
) -> None:
    facts_file.write_text(facts_file.read_text() + '{"name": "New Town", "property": "motto", "value": "go"}\n')
    assert kblam("kb", "build", facts_file, "-o", model_folder, "--json").ok().json["triples"] == 4
    assert kblam("kb", "info", model_folder, "--json").ok().json["triples"] == 4
    (tmp_path / "plain").mkdir()
    into = ["kb", "build", facts_file, "-o", tmp_path / "plain"]
    kblam(*into).failed(2, "is a folder, and a knowledge base is a file", f"-o {tmp_path / 'plain' / 'facts.kb'}")
    kblam("kb", "build", facts_file, "-o", tmp_path / "plain" / "facts.kb").ok()
    kblam(*into).failed(2, f"did you mean {tmp_path / 'plain' / 'facts.kb'}?")


def test_a_file_of_triples_given_as_a_knowledge_base_is_told_apart(facts_file: Path) -> None:
    fix = f"kblam kb build {facts_file} -o {facts_file.with_suffix('.kb')}"
    kblam("ask", "motto ?", "--kb", facts_file).failed(2, "is a file of triples", fix)
    kblam("kb", "list", facts_file).failed(2, "is a file of triples", fix)
    kblam("integrate", "smollm2", facts_file, "-o", facts_file.parent / "new").failed(2, "is a file of triples", fix)


def test_a_command_in_a_message_can_be_typed_where_a_path_has_a_space(
    facts_file: Path, kb: Path, tmp_path: Path
) -> None:
    folder, triples, base = tmp_path / "my facts", tmp_path / "my facts.jsonl", tmp_path / "my facts.kb"
    folder.mkdir()
    triples.write_bytes(facts_file.read_bytes())
    kblam("kb", "list", folder).failed(2, f"kblam kb build FILE -o '{folder / 'facts.kb'}'")
    kblam("kb", "list", triples).failed(2, f"kblam kb build '{triples}' -o '{base}'")
    base.write_bytes(kb.read_bytes())
    kblam("kb", "remove", base, "Nobody").failed(2, f"kblam kb list '{base}' --search")
    kblam("kb", "build", base, "-o", tmp_path / "new.kb").failed(2, f"kblam kb export '{base}' -o 'my facts.jsonl'")
    kblam("integrate", "--kb", base, "-o", folder).failed(2, f"kblam integrate MODEL ADAPTER '{base}' -o '{folder}'")


def arguments_of_messages() -> list[tuple[str, list[str], list[str]]]:
    """(place, flags, commands that take them) of each call of `argument` whose flags and commands are written there."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "argument":
                if isinstance(call.args[1], ast.JoinedStr):
                    continue  # a setting of a training run, by its name
                flags = re.findall(r"--[a-z-]+", ast.unparse(call.args[1]))
                commands = ast.unparse(call.args[2])
                known = {"READING": READING, "MAPPING": MAPPING}.get(commands)
                named = list(known) if known else re.findall(r"'([a-z ]+)", commands)
                found.append((f"{path.relative_to(PACKAGE)}:{call.lineno}", flags, named))
    return found


def test_every_flag_of_a_message_is_one_of_the_commands_that_it_is_for() -> None:
    found = arguments_of_messages()
    assert len(found) > 8
    for place, flags, commands in found:
        assert flags, place
        assert commands, place
        for command in commands:
            path = tuple(command.split()) if command != "data " else ("data", "wordnet")
            taken = {name for parameter in COMMANDS[path].params for name in parameter.opts}
            assert set(flags) <= taken, (place, command)


def words_of(node: ast.AST) -> str:
    """The text that is written in a statement, but for what `argument` makes."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "argument":
        return ""
    own = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    return own + " ".join(words_of(inner) for inner in ast.iter_child_nodes(node))


def test_messages_of_the_library_write_no_flag_by_hand() -> None:
    """`argument` knows whether the running command has it; beside a command in back quotes it is right."""
    ours = {name for command in COMMANDS.values() for one in command.params for name in one.opts if name[:2] == "--"}
    for room in ("adapter", "data", "folder", "generation", "knowledge", "models"):
        for path in sorted((PACKAGE / room).rglob("*.py")):
            for raised in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(raised, ast.Raise):
                    flags = re.findall(r"--[a-z-]+", re.sub(r"`kblam [^`]*`", "", words_of(raised)))
                    assert not ours & set(flags), (path, raised.lineno)


def test_a_command_names_only_flags_that_it_has(tmp_path: Path) -> None:
    file = tmp_path / "cities.csv"
    file.write_text("title,label,born\na,b,1\n", encoding="utf-8")
    choice = "--map name=title"
    assert f"choose, such as {choice}\n" in kblam("kb", "build", file, "-o", tmp_path / "x.kb").stderr
    line = (
        kblam("data", "synthesise", "-o", file, "--base-url", "http://127.0.0.1:9/v1", "--model", "m").failed(2).stderr
    )
    assert f"{choice} of `kblam kb build`; " in line
    assert line.endswith("choose another --output\n")
    assert "--source FOLDER" in kblam("data", "wordnet").stderr


def test_an_encoder_is_named_by_a_flag_only_where_there_is_one() -> None:
    with pytest.raises(EncoderUnavailableError, match=r"yourself: encoder=load_encoder\('org/x'\), or KBLAM_EN"):
        load_recorded_encoder("org/x")
    with messages_name_flags():
        runs("ask")
        with pytest.raises(EncoderUnavailableError, match="yourself: KBLAM_ENCODER=org/x"):
            load_recorded_encoder("org/x")
        for command in ("kb add", "kb doctor", "data import"):
            runs(command)
            with pytest.raises(EncoderUnavailableError, match="yourself: --encoder org/x, or KBLAM_ENCODER=org/x"):
                load_recorded_encoder("org/x")
        with pytest.raises(EncoderUnavailableError, match="or KBLAM_ENCODER='my encoder'"):
            load_recorded_encoder("my encoder")
