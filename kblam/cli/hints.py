"""What people type who come from microsoft/KBLaM, AtlasKV or another tool, and the command of ours that does it.

docs/upstream.md has the same as a table.
"""

from __future__ import annotations

from typing import Any

# Names that are taken for a command.
ALIASES = {"evaluate": "eval"}
_BUILD = "kblam kb build FILE -o facts.kb"
_EVAL = "kblam eval --kb facts.kb"
_SYNTHESISE = "kblam data synthesise -o facts.jsonl --base-url URL --model MODEL"
# By a word that is no command, written with dashes and without a final ".py".
COMMANDS = {
    "build": _BUILD,
    "create": _BUILD,
    "encode": _BUILD,
    "embed": _BUILD,
    "generate-kb-embeddings": _BUILD,
    "generate-kb-embeddings-gmm": _BUILD,
    "add": "kblam kb add facts.kb --name NAME --property PROPERTY --value VALUE",
    "update": "kblam kb build FILE -o facts.kb (a model folder will do, too)",
    "remove": "kblam kb remove facts.kb NAME",
    "delete": "kblam kb remove facts.kb NAME",
    "list": "kblam kb list facts.kb",
    "show": "kblam kb list facts.kb",
    "search": "kblam kb list facts.kb --search WORDS",
    "info": "kblam kb info facts.kb",
    "check": "kblam kb check facts.kb",
    "gen-synthetic-data": _SYNTHESISE,
    "synthesise": _SYNTHESISE,
    "synthesize": _SYNTHESISE,
    "create-train-test-split": "kblam train --kb facts.kb -o my-adapter (nothing has to be split before)",
    "finetune": "kblam train --kb facts.kb -o my-adapter",
    "accuracy": _EVAL,
    "acc-results": _EVAL,
    "refusal": _EVAL,
    "generation": _EVAL,
    "standard": _EVAL,
    "output-scorer": _EVAL,
    "query": 'kblam ask "QUESTION" --kb facts.kb',
    "answer": 'kblam ask "QUESTION" --kb facts.kb',
    "interactive": "kblam chat --kb facts.kb",
    "import": "kblam data import SOURCE -o facts.kb",
    "attach": "kblam integrate MODEL ADAPTER facts.kb -o folder",
    "test": "kblam doctor --deep",
    "env": "kblam doctor",
    "help": "kblam --help, or kblam COMMAND --help",
    "version": "kblam --version",
    "ls": "kblam kb list facts.kb",
    "export": "kblam kb export facts.kb -o facts.jsonl",
    "plan": "kblam kb info facts.kb, or python -m kblam_kernels plan --help",
}
_KB = "the knowledge base is --kb facts.kb"
_MODEL = "the model is --model NAME"
_TRIPLES = "triples are built into a file first, kblam kb build FILE -o facts.kb, and given as --kb facts.kb"
_CONVERT = "a checkpoint becomes an adapter folder first: kblam convert CHECKPOINT -o my-adapter"
_RECORDED = "an adapter records it; kblam convert CHECKPOINT -o my-adapter takes"
# By an option that is none, without its dashes, written with dashes.
OPTIONS = {
    "kb-path": _KB,
    "kb-file": _KB,
    "kb-dir": _KB,
    "knowledge-base": _KB,
    "dataset-dir": _TRIPLES,
    "dataset-path": _TRIPLES,
    "dataset-name": _TRIPLES,
    "data-path": _TRIPLES,
    "train-dataset": _TRIPLES,
    "test-dataset": _TRIPLES,
    "precomputed-embed-keys-path": _TRIPLES,
    "precomputed-embed-values-path": _TRIPLES,
    "use-cached-embd": "kblam train keeps vectors in the folder of --cache by itself",
    "model-dir": _MODEL,
    "model-path": _MODEL,
    "model-name": _MODEL,
    "hf-model-spec": _MODEL,
    "llm-base-dir": _MODEL,
    "llm-type": "the kind of model is read from its config; leave it out",
    "adapter-path": "the adapter is --adapter FOLDER",
    "encoder-dir": _CONVERT,
    "encoder-path": _CONVERT,
    "query-head-path": f"{_CONVERT} --query-head FILE",
    "model-dir-to-resume": "kblam train --resume goes on from what its --output holds",
    "encoder-spec": "the sentence encoder is --encoder minilm of kblam kb build, kblam convert or kblam eval",
    "use-oai-embd": "the sentence encoder is --encoder openai:text-embedding-ada-002 of kblam kb build",
    "endpoint-url": "the server is --base-url URL of kblam data synthesise, or --encoder openai:MODEL@URL of kb build",
    "hf-token": "a token is never an option: hf auth login, or the variable HF_TOKEN",
    "api-key": "a key is never an option: put it into a variable, which --api-key-env names",
    "kb-scale-factor": f"{_RECORDED} --knowledge-scale",
    "kb-layer-frequency": f"{_RECORDED} --layer-frequency",
    "kb-token-layer-frequency": f"{_RECORDED} --layer-frequency",
    "sep-query-head": f"{_RECORDED} it from the record",
    "topk-size": "an adapter records it (top_k in its config.json)",
    "kb-size": "the sizes to try are kblam eval --sizes 100,1000",
    "eval-mode": "kblam eval --baselines in-context,zero-shot compares with these",
    "total-steps": "it is kblam train --max_steps",
    "lr": "it is kblam train --learning_rate",
    "n": "how many questions is kblam eval --questions; how many triples to learn from is kblam train --triples",
    "b": "the batch is kblam train --per_device_train_batch_size",
    "epochs": "how long is kblam train --retrieval_steps and --max_steps",
    "num-train-epochs": "how long is kblam train --retrieval_steps and --max_steps",
    "resume-from-checkpoint": "kblam train --resume goes on from what its --output holds",
    "model-save-dir": "where to is --output FOLDER",
    "save-dir": "where to is --output FOLDER",
    "output-dir": "where to is --output",
    "output-path": "where to is --output",
    "output-file": "where to is --output",
    "out": "where to is --output",
    "attn-save-dir": "kblam eval --png FILE draws where questions look",
    "attn-summary-save-dir": "kblam eval --png FILE draws where questions look",
    "question": 'the question is given without an option: kblam ask "QUESTION" --kb facts.kb',
    "query": 'the question is given without an option: kblam ask "QUESTION" --kb facts.kb',
    "prompt": 'the question is given without an option: kblam ask "QUESTION" --kb facts.kb',
    "input": "the file is given without an option: kblam kb build FILE -o facts.kb",
    "input-file": "the file is given without an option: kblam kb build FILE -o facts.kb",
    "name": "the name is given without an option: kblam kb remove facts.kb NAME",
    "max-length": "the longest answer is --max-new-tokens",
    "max-tokens": "the longest answer is --max-new-tokens",
}


_EXTRA = "Got unexpected extra argument"
# For a word too many: by an option or argument that the command has, as it writes it; the first that fits.
EXTRA = {
    "QUESTION": f"the question stands in quotes, and {_KB}",
    "--kb": _KB,
    "FILE": "it is one file at a time; kblam data import FILE FILE -o facts.kb takes several",
}


def plain(word: str) -> str:
    """A word as the tables have it."""
    return word.lstrip("-").lower().replace("_", "-").removesuffix(".py")


def of_option(name: str) -> str | None:
    """What to write in place of an option that is none."""
    return OPTIONS.get(plain(name.partition("=")[0]))


def add_to(error: Any) -> None:
    """Adds what would be right to a usage error about a word, an option or a command that is none; no other changes."""
    message = getattr(error, "message", None)
    if not isinstance(message, str):
        return
    hint = None
    if isinstance(name := getattr(error, "option_name", None), str) and type(error).__name__ == "NoSuchOption":
        hint = of_option(name)
        if hint is not None:
            error.possibilities = None
    elif message.startswith("No such command "):
        word = message.removeprefix("No such command ").split("'")[1:2]
        command = COMMANDS.get(plain(word[0])) if word else None
        hint = None if command is None else f"what you want is: {command}"
        if hint is not None:
            message = message.partition(". Did you mean")[0].rstrip(".")
    elif message.startswith(_EXTRA) and getattr(error, "ctx", None) is not None:
        taken = {
            name
            for parameter in error.ctx.command.params
            for name in (*parameter.opts, (parameter.metavar or "").strip("[]"))
        }
        hint = next((EXTRA[name] for name in EXTRA if name in taken), None)
    if hint is not None:
        error.message = f"{message}; {hint}"
