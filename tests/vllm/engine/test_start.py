"""What an engine refuses before it starts, and what is set for it."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm import AsyncEngineArgs, ModelRegistry
from vllm.model_executor.models.config import MODELS_CONFIG_MAP
from vllm.platforms import current_platform
from vllm.v1.executor import ray_utils

from kblam import KnowledgeAdapter
from kblam.adapter import AdapterConfig
from kblam.adapter.files import read_config
from kblam.errors import EncoderMismatchError, EngineError
from kblam.models.loading import load_base, load_config
from kblam.models.signature import signature_of
from kblam.vllm import architecture_of
from kblam.vllm.settings import Settings
from kblam.vllm.start import BREAKABLE, refuse_adapter, refuse_decided, refuse_engine, start_up, window_of
from tests.vllm.engine import engines


def config(**changes: Any) -> Any:
    """As much of vLLM's config as is looked at; `changes` by path, such as model_config__use_mla."""
    made = SimpleNamespace(
        speculative_config=None,
        lora_config=None,
        kv_transfer_config=None,
        parallel_config=SimpleNamespace(
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
            pipeline_parallel_size=1,
            enable_dbo=False,
            worker_extension_cls="",
            nnodes=1,
            distributed_executor_backend=None,
            use_ray=False,
            data_parallel_size=1,
            _api_process_count=1,
            enable_batch_sharded_sampling=False,
        ),
        model_config=SimpleNamespace(
            use_mla=False,
            enforce_eager=False,
            runner_type="generate",
            architecture="KnowledgeLlamaForCausalLM",
            hf_text_config=load_config(engines.MODEL),
            logits_processors=None,
            enable_prompt_embeds=False,
            skip_tokenizer_init=False,
        ),
        cache_config=SimpleNamespace(cache_dtype="auto", kv_offloading_size=None),
        scheduler_config=SimpleNamespace(scheduler_cls=None),
        additional_config={},
        use_v2_model_runner=False,
    )
    for path, value in changes.items():
        *owners, name = path.split("__")
        owner = made
        for part in owners:
            owner = getattr(owner, part)
        setattr(owner, name, value)
    return made


def test_a_plain_engine_is_not_refused() -> None:
    refuse_engine(config())
    refuse_adapter(config(), read_config(engines.ADAPTER))


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("speculative_config", object(), "speculative decoding"),
        ("lora_config", object(), "LoRA"),
        ("kv_transfer_config", SimpleNamespace(kv_connector="NixlConnector"), "a KV connector of its own"),
        ("parallel_config__decode_context_parallel_size", 2, "decode context parallelism"),
        ("parallel_config__prefill_context_parallel_size", 2, "prefill context parallelism"),
        ("parallel_config__pipeline_parallel_size", 2, "pipeline parallelism"),
        ("parallel_config__enable_dbo", True, "enable_dbo"),
        ("model_config__use_mla", True, "MLA"),
        ("model_config__runner_type", "pooling", "a pooling model"),
        ("cache_config__cache_dtype", "fp8", "a quantised KV cache"),
        ("cache_config__kv_offloading_size", 0.5, r"KV offloading \(kv_offloading_size=0.5\)"),
        ("scheduler_config__scheduler_cls", "mine.Scheduler", "a scheduler of its own"),
        ("parallel_config__worker_extension_cls", "mine.Worker", "a worker extension of its own"),
        ("parallel_config__use_ray", True, "several machines, or Ray"),
        ("parallel_config__distributed_executor_backend", "external_launcher", "the executor 'external_launcher'"),
        ("parallel_config__data_parallel_size", 2, "data parallelism"),
        ("parallel_config___api_process_count", 2, "several API server processes"),
        ("parallel_config__nnodes", 2, "several machines, or Ray"),
    ],
)
def test_an_engine_in_which_knowledge_would_be_wrong_is_refused_with_the_reason(
    path: str, value: Any, reason: str
) -> None:
    with pytest.raises(EngineError, match=reason):
        refuse_engine(config(**{path: value}))


@pytest.mark.parametrize(
    ("variables", "enforce_eager", "is_refused"),
    [
        ({}, False, False),
        ({BREAKABLE: "1"}, False, True),
        ({BREAKABLE: "1"}, True, False),
        ({"VLLM_BATCH_INVARIANT": "1"}, False, True),
        ({"VLLM_BATCH_INVARIANT": "1", BREAKABLE: "0"}, False, False),
    ],
)
def test_graphs_that_would_not_hear_a_step_are_refused_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], enforce_eager: bool, is_refused: bool
) -> None:
    for name in (BREAKABLE, "VLLM_BATCH_INVARIANT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made = config(model_config__enforce_eager=enforce_eager)
    refuse_engine(made)  # on a CPU there are no graphs
    monkeypatch.setattr(type(current_platform), "is_cuda_alike", lambda self: True)
    with pytest.raises(EngineError, match=f"{BREAKABLE}=0") if is_refused else contextlib.nullcontext():
        refuse_engine(made)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}},
            "speculative decoding: on the V1 runner",
        ),
        ({"enable_lora": True}, "LoRA: an adapter knows the base model's weights"),
        ({"tensor_parallel_size": 2, "decode_context_parallel_size": 2}, "decode context parallelism"),
        ({"kv_offloading_size": 0.5}, r"KV offloading \(kv_offloading_size=0.5\)"),
    ],
    ids=["speculation", "lora", "context-parallel", "offloading"],
)
def test_vllms_own_options_come_to_the_refusal(bases: dict[str, Path], options: dict[str, Any], reason: str) -> None:
    with pytest.raises(EngineError, match=f"knowledge is not served with {reason}"):
        engines.start(engines.settings(bases), **options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"data_parallel_size": 2}, "data parallelism"),
        ({"distributed_executor_backend": "ray"}, "workers on several machines, or Ray"),
        (
            {"distributed_executor_backend": "vllm.v1.executor.ray_executor.RayDistributedExecutor"},
            "the executor 'vllm.v1",
        ),
        ({"data_parallel_size": 2, "data_parallel_backend": "ray"}, "workers on several machines, or Ray"),
        ({"nnodes": 2, "tensor_parallel_size": 2, "distributed_executor_backend": "mp"}, "workers on several machines"),
        ({"_api_process_count": 2, "_api_process_rank": -1}, "several API server processes"),
        ({"_api_process_count": 2, "_api_process_rank": 1}, "several API server processes"),
    ],
    ids=str,
)
def test_servers_of_several_processes_and_machines_come_to_the_refusal(
    bases: dict[str, Path], options: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told when the config is made, as `vllm serve` makes it, before any process is started."""
    monkeypatch.setattr(ray_utils, "assert_ray_available", lambda: None)  # it is not installed
    arguments = AsyncEngineArgs(**engines.options_of(engines.settings(bases)), **options)
    with pytest.raises(EngineError, match=f"knowledge is not served with {reason}"):
        arguments.create_engine_config()


def test_knowledge_for_a_class_that_would_ignore_it_is_refused(bases: dict[str, Path]) -> None:
    given = engines.options_of(engines.settings(bases)) | {"hf_overrides": {}}
    with pytest.raises(EngineError, match=r"LlamaForCausalLM would ignore additional_config\['kblam'\]; start with "):
        AsyncEngineArgs(**given).create_engine_config()
    plain = AsyncEngineArgs(**given | {"additional_config": {}}).create_engine_config()
    assert plain.scheduler_config.scheduler_cls is None


def test_knowledge_for_transformers_own_class_is_refused(bases: dict[str, Path]) -> None:
    """vLLM chooses it by an option; the checkpoint's name stands in the message."""
    given = engines.options_of(engines.settings(bases)) | {"hf_overrides": {}, "model_impl": "transformers"}
    wanted = (
        r"TransformersForCausalLM would ignore .*'KnowledgeLlamaForCausalLM'\]}, and leave model_impl='transformers'"
    )
    with pytest.raises(EngineError, match=wanted):
        AsyncEngineArgs(**given).create_engine_config()


def test_knowledge_for_a_family_that_cannot_attend_to_it_is_refused() -> None:
    given = {"kblam": {"adapter": "x"}}
    model = SimpleNamespace(architecture="GPT2LMHeadModel", architectures=["GPT2LMHeadModel"])
    with pytest.raises(EngineError, match="GPT2LMHeadModel cannot attend to knowledge in vLLM; these can: Llama"):
        MODELS_CONFIG_MAP["GPT2LMHeadModel"].verify_and_update_config(
            SimpleNamespace(model_config=model, additional_config=given)
        )
    missing = [name for name in ModelRegistry.get_supported_archs() if name not in MODELS_CONFIG_MAP]
    assert not missing


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_size": 128}, "hidden_size=128"),
        ({"top_k": 5}, "top_k"),
        ({"projector": "identity", "embedding_dim": 256}, "identity"),
    ],
)
def test_an_adapter_that_cannot_be_served_is_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        refuse_adapter(config(), dataclasses.replace(read_config(engines.ADAPTER), **change))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("model_config__enable_prompt_embeds", "prompts of embeddings"),
        ("model_config__skip_tokenizer_init", "no tokenizer"),
        ("parallel_config__enable_batch_sharded_sampling", "batch-sharded sampling"),
    ],
)
def test_an_engine_that_could_not_say_decided_answers_is_refused(path: str, reason: str) -> None:
    adapter, settings = read_config(engines.ADAPTER), Settings("a")
    refuse_decided(config(**{path: True}), settings, adapter)  # it decides nothing
    with pytest.raises(EngineError, match=reason):
        refuse_decided(config(**{path: True}), settings, dataclasses.replace(adapter, pointer=True))
    refuse_decided(config(), settings, dataclasses.replace(adapter, pointer=True))


def test_settings_that_decide_by_what_the_adapter_has_not_are_refused() -> None:
    with pytest.raises(EngineError, match="this adapter has no known_above"):
        refuse_decided(config(), Settings("a", unknown="base"), read_config(engines.ADAPTER))


def test_knowledge_layers_with_a_sliding_window_are_refused() -> None:
    text = load_config(engines.MODEL)
    text.sliding_window, text.layer_types = 64, ["sliding_attention"] * 2 + ["full_attention"] * 2
    assert window_of(text, 0) == 64
    assert window_of(text, 2) is None
    refuse_adapter(config(model_config__hf_text_config=text), read_config(engines.ADAPTER))  # knowledge in layer 2
    text.layer_types = ["sliding_attention"] * 4
    with pytest.raises(EngineError, match=r"knowledge layers \[2\] have a sliding window \(64 tokens\)"):
        refuse_adapter(config(model_config__hf_text_config=text), read_config(engines.ADAPTER))


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(EngineError, match="OPTForCausalLM cannot attend to knowledge in vLLM"):
        architecture_of("OPTForCausalLM")


@pytest.mark.parametrize(
    ("additional", "reason"),
    [
        ({}, "needs additional_config"),
        ({"kblam": {}}, "adapter is missing"),
        ({"kblam": {"adapter": "a", "storrage": "int8"}}, "no setting storrage"),
        ({"kblam": {"adapter": "a", "storage": "int9"}}, "storage must be one of"),
        ({"kblam": {"adapter": "a", "capacity": 0}}, "capacity must be"),
        ({"kblam": {"adapter": "a", "unknown": "maybe"}}, "unknown must be one of auto, refuse, base, model"),
        ({"kblam": {"adapter": "a", "known_above": "high"}}, "known_above must be a number"),
        ({"kblam": {"adapter": "a", "knowledge": {"a@b": "a.kb"}}}, "without @"),
        ({"kblam": {"adapter": "a", "knowledge": ["a.kb"]}}, "must name files"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_starts(additional: Any, reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        start_up(config(additional_config=additional))


def test_an_adapter_of_another_model_of_the_same_shape_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    model = load_base(engines.MODEL)
    with_signature(tmp_path / "own", model)
    for parameter in model.get_decoder().layers[3].mlp.parameters():
        parameter.data = parameter.data.flip(0)
    with_signature(tmp_path / "other", model)
    given = engines.settings(bases)
    given["kblam"]["adapter"] = str(tmp_path / "other")
    with pytest.raises(EngineError, match="other weights in layer 3"):
        engines.start(given)
    given["kblam"]["adapter"] = str(tmp_path / "own")
    engines.start(given)


def test_a_base_of_another_encoder_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = KnowledgeAdapter.from_pretrained(engines.ADAPTER)
    adapter.config = dataclasses.replace(adapter.config, encoder="sentence-transformers:other:384")
    adapter.save_pretrained(tmp_path)
    given = engines.settings(bases)
    given["kblam"]["adapter"] = str(tmp_path)
    with pytest.raises(EncoderMismatchError):
        engines.start(given)


def with_signature(folder: Path, model: Any) -> AdapterConfig:
    """The small model's adapter, as one trained for `model`."""
    adapter = KnowledgeAdapter.from_pretrained(engines.ADAPTER)
    adapter.config = dataclasses.replace(adapter.config, base_signature=signature_of(model))
    adapter.save_pretrained(folder)
    return adapter.config
