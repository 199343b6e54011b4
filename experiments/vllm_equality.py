"""Whether vLLM with knowledge says what `attach` on transformers says: greedy tokens, log-probabilities and evidence of
the model speaking by itself, and the answers that are decided and copied, beside those of `ask`.

    .venv-vllm/bin/python -m experiments.vllm_equality --runner v1 --mode eager

Requests about two knowledge bases and about none are in one batch. `--runner v2` runs vLLM's Model Runner V2, whose
Triton kernels run in Triton's interpreter on a CPU. One line of the table in docs/log is one run.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import os
import tempfile
import time
from importlib.util import find_spec
from operator import eq
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from kblam.adapter.config import FORMAT_VERSION

if TYPE_CHECKING:  # it imports triton, which reads what `prepare` sets
    from kblam.generation.decision import Unknown

THREADS = "1"
ANSWER_TOKENS = 48
# Of a confidence and of a share of attention, in float32 and bfloat16.
SURE = ALIKE = 0.02
CONSOLE = Console(highlight=False, soft_wrap=True)


def prepare(runner: str) -> None:
    """What has to be set before vLLM is imported."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("OMP_NUM_THREADS", THREADS)
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1" if runner == "v2" else "0"
    if runner == "v2":  # vLLM asks Triton for a driver, and the interpreter has none
        os.environ["TRITON_INTERPRET"] = "1"
        import triton.backends

        triton.backends.backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)


def pointing(adapter: Path, folder: Path) -> Path:
    """An adapter that speaks by attention alone, with a pointer and a confidence without a property head."""
    from kblam import KnowledgeAdapter
    from kblam.adapter.confidence import Confidence
    from kblam.adapter.files import read_config
    from kblam.shipped import SMOLLM2_ADAPTER

    made = KnowledgeAdapter.from_pretrained(adapter)
    weights: Confidence | None = read_config(SMOLLM2_ADAPTER).confidence
    made.config = dataclasses.replace(
        made.config, pointer=True, known_above=0.4, confidence=weights, format_version=FORMAT_VERSION
    )
    made.save_pretrained(folder)
    return folder


def engine_of(arguments: argparse.Namespace, folder: Path, adapter: str) -> Any:
    """vLLM with the bases."""
    from vllm import LLM

    from kblam.vllm import architecture_of

    return LLM(
        str(folder),
        dtype=arguments.dtype,
        enforce_eager=arguments.mode != "compiled",
        block_size=32,
        max_model_len=512,
        max_num_seqs=arguments.slots,
        max_num_batched_tokens=512 if arguments.mode != "chunked" else 16,
        enable_chunked_prefill=True if arguments.mode == "chunked" else None,
        tensor_parallel_size=arguments.ranks,
        disable_log_stats=True,
        hf_overrides={"architectures": [architecture_of("LlamaForCausalLM")]},
        additional_config={
            "kblam": {
                "adapter": adapter,
                "storage": arguments.storage,
                "knowledge": {name: str(path) for name, path in arguments.bases.items()},
            }
        },
    )


def ask_vllm(engine: Any, requests: list[Any], limit: int) -> list[Any]:
    """(tokens, their log-probabilities, evidence) of each request, the model speaking by itself."""
    from vllm import SamplingParams

    prompts, params = [], []
    for base, question, ids in requests:
        extra: dict[str, Any] = {} if base is None else {"kblam_kb": base, "kblam_verbatim": False}
        extra |= {} if question is None else {"kblam_question": question}
        prompts.append({"prompt_token_ids": ids})
        params.append(SamplingParams(temperature=0, max_tokens=limit, logprobs=1, min_tokens=limit, extra_args=extra))
    start = time.perf_counter()
    outputs = engine.generate(prompts, params, use_tqdm=False)
    CONSOLE.print(f"{len(prompts)} requests in {time.perf_counter() - start:.1f} s")
    found = []
    for output in outputs:
        (said,) = output.outputs
        own = [step[token].logprob for step, token in zip(said.logprobs, said.token_ids, strict=True)]
        told = (output.kv_transfer_params or {}).get("kblam", {})
        found.append((list(said.token_ids), own, told.get("evidence")))
    return found


def ask_transformers(
    arguments: argparse.Namespace, attachment: Any, opened: dict[str, Any], request: Any, limit: int
) -> Any:
    """The same of one request, with `attach`."""
    import torch

    from kblam.generation.evidence import EvidenceRecorder

    base, question, ids = request
    recorder = EvidenceRecorder()
    with contextlib.ExitStack() as block:
        if base is not None:
            block.enter_context(attachment.using(opened[base], question=question))
            block.enter_context(attachment.observing(recorder))
        block.enter_context(torch.inference_mode())
        prompt = torch.tensor([ids])
        made = attachment.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=limit,
            min_new_tokens=limit,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    tokens = made.sequences[0, len(ids) :].tolist()
    own = [scores[0].float().log_softmax(-1)[token].item() for scores, token in zip(made.logits, tokens, strict=True)]
    return tokens, own, recorder.best(0, limit, 1) if base is not None else None


def answers_of_vllm(engine: Any, asked: list[tuple[str, str, list[int]]], limit: int) -> list[tuple[str, Any]]:
    """(text, what it rests on) of each (base, question, prompt): what is unknown the base model answers."""
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": ids} for _, _, ids in asked]
    params = [
        SamplingParams(
            temperature=0,
            max_tokens=limit,
            extra_args={"kblam_kb": base, "kblam_question": question, "kblam_unknown": unknown_of(question)},
        )
        for base, question, _ in asked
    ]
    start = time.perf_counter()
    outputs = engine.generate(prompts, params, use_tqdm=False)
    CONSOLE.print(f"{len(prompts)} answers in {time.perf_counter() - start:.1f} s")
    return [(output.outputs[0].text.strip(), output.kv_transfer_params["kblam"]) for output in outputs]


def answers_of_ask(
    model: Any, tokenizer: Any, opened: dict[str, Any], asked: list[tuple[str, str, list[int]]], limit: int
) -> list[tuple[str, Any]]:
    """The same with `ask`."""
    from kblam import ask

    answers = [
        ask(model, opened[base], question, tokenizer=tokenizer, unknown=unknown_of(question), max_new_tokens=limit)
        for base, question, _ in asked
    ]
    return [(answer.text, answer.basis()) for answer in answers]


def unknown_of(question: str) -> Unknown:
    """What becomes of a question that is unknown: half are refused, half go to the base model."""
    return "base" if len(question) % 2 else "refuse"


def question_texts(triples: list[Any]) -> list[str]:
    """About one fact, two facts, an entity, one fact and a gap, nothing that is known, and a name in careless words."""
    a, b, c = triples[:3]
    return [
        f"What is the {a.property} of {a.name}?",
        f"What is the {a.property} of {a.name} and the {b.property} of {b.name}?",
        f"What is the {b.property} of {b.name}? What is the {c.property} of {c.name}?",
        f"Tell me about {c.name}.",
        f"What is the {b.property} of {b.name} and the {c.property} of Nobody?",
        f"What is the {a.property} of Nobody?",
        f"What is the {c.property} of nobody else?",
        f"whats {b.name.lower()}s {b.property}",
    ]


def is_alike(ours: tuple[str, Any], theirs: tuple[str, Any]) -> bool:
    """The same text, copied from the same triples, as sure, with the same evidence."""
    (text, said), (wanted, basis) = ours, theirs
    # The small model's tokenizer has no capitals; what the answer says to the letter stands beside it.
    same_text = text.lower() == wanted.lower() and said.get("text", wanted) == wanted
    same = same_text and all(said[key] == basis[key] for key in ("refused", "known", "copied"))
    # By triple, not by place: three facts of an entity have shares of .9999 each. From the base model there are none.
    found, expected = (
        {(one["name"], one["property"]): one["mass"] for one in each["evidence"]} for each in (said, basis)
    )
    near = found.keys() == expected.keys() and all(abs(found[one] - expected[one]) < ALIKE for one in found)
    alike = same and near and abs(said["confidence"] - basis["confidence"]) < SURE
    if not alike:
        CONSOLE.print(f"{text!r} is not {wanted!r}, or rests on something else")
    return alike


def gap(ours: list[Any], theirs: list[Any], chosen: list[bool]) -> float:
    """The largest difference of a token's log-probability in the chosen rows, up to where their tokens part."""
    return max(
        abs(one - other)
        for (tokens, own, _), (wanted, others, _), is_chosen in zip(ours, theirs, chosen, strict=True)
        if is_chosen
        for one, other, _ in zip(own, others, itertools.takewhile(bool, map(eq, tokens, wanted)), strict=False)
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2", choices=("smollm2", "tiny"))
    parser.add_argument("--runner", default="v1", choices=("v1", "v2"))
    parser.add_argument("--mode", default="eager", choices=("eager", "compiled", "chunked"))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--storage", default="auto")
    parser.add_argument("--slots", type=int, default=8, help="requests that vLLM runs at once")
    parser.add_argument("--ranks", type=int, default=1, help="processes of tensor parallelism")
    parser.add_argument("--questions", type=int, default=4, help="for each base")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--triples", type=int, default=300, help="of each base")
    arguments = parser.parse_args()
    if find_spec("vllm") is None:  # minutes before it is imported
        parser.error("the package vllm is not installed here; `make test-vllm` installs it into .venv-vllm")
    prepare(arguments.runner)

    import torch

    from kblam import KnowledgeAdapter, KnowledgeBase, Triple, attach
    from kblam.demo.tiny.evaluate import quizzes
    from kblam.demo.tiny.tokenizer import real_words
    from kblam.demo.tiny.world import build_world
    from kblam.generation.prompt import encode_question
    from kblam.knowledge import load_encoder
    from kblam.models import smollm2
    from kblam.models.loading import load_base, load_tokenizer
    from kblam.shipped import DEMO, SMOLLM2_ADAPTER

    tiny = arguments.model == "tiny"
    folder = DEMO / "model" if tiny else Path(smollm2.source())
    facts = [Triple(*fact) for fact in quizzes(build_world(real_words()), 1000, 20)[0].facts]
    encoder = load_encoder("minilm")
    with tempfile.TemporaryDirectory() as home:
        adapter = pointing(DEMO / "adapter", Path(home) / "adapter") if tiny else SMOLLM2_ADAPTER
        arguments.bases = {name: Path(home) / f"{name}.kb" for name in ("facts", "hr")}
        asked: list[tuple[str | None, Triple]] = []
        texts: list[tuple[str, str]] = []
        for part, (name, path) in enumerate(arguments.bases.items()):
            own = facts[part * arguments.triples :][: arguments.triples]
            with KnowledgeBase.create(path, encoder) as base:
                base.add(own)
            asked += [(name, triple) for triple in own[: arguments.questions]]
            texts += [(name, text) for text in question_texts(own[part::20])]
        asked += [(None, triple) for _, triple in asked[:2]]
        asked = [asked[at] for at in sorted(range(len(asked)), key=lambda at: at % 3)]  # bases in turn, in one batch

        model = load_base(folder, dtype=getattr(torch, arguments.dtype))
        attachment = attach(model, KnowledgeAdapter.from_pretrained(adapter), storage=arguments.storage)
        tokenizer, needs = load_tokenizer(folder), attachment.config.question_head is not None
        requests = []
        for name, triple in asked:
            question = f"What is the {triple.property} of {triple.name}?"
            ids = encode_question(question, attachment, tokenizer)
            requests.append((name, question if needs and name is not None else None, list(ids)))
        opened = {name: KnowledgeBase.open(path) for name, path in arguments.bases.items()}
        theirs = [ask_transformers(arguments, attachment, opened, one, arguments.tokens) for one in requests]
        decided = [(name, text, list(encode_question(text, attachment, tokenizer))) for name, text in texts]
        wanted = answers_of_ask(model, tokenizer, opened, decided, ANSWER_TOKENS)
        engine = engine_of(arguments, folder, str(adapter))
        ours = ask_vllm(engine, requests, arguments.tokens)
        answers = answers_of_vllm(engine, decided, ANSWER_TOKENS)
        for base in opened.values():
            base.close()

    same = [mine[0] == its[0] for mine, its in zip(ours, theirs, strict=True)]
    with_base = [name is not None for name, _, _ in requests]
    masses = [
        abs(mine[2][0]["mass"] - its[2][0][1]) for mine, its in zip(ours, theirs, strict=True) if its[2] is not None
    ]
    CONSOLE.print(
        f"{arguments.model} {arguments.runner} {arguments.mode} {arguments.dtype} {arguments.storage} "
        f"slots={arguments.slots} ranks={arguments.ranks}: tokens {sum(same)}/{len(same)}, "
        f"log-probability {gap(ours, theirs, with_base):.1e}, evidence mass {max(masses):.1e}, "
        f"answers {sum(map(is_alike, answers, wanted))}/{len(wanted)}, {len({text for text, _ in wanted})} different; "
        f"without a base: log-probability {gap(ours, theirs, [not one for one in with_base]):.1e}"
    )


if __name__ == "__main__":
    main()
