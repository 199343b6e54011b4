"""Before an engine starts: what knowledge cannot be right with is refused, and what it needs is set."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Any

from vllm import envs
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.platforms import current_platform

from kblam.adapter import AdapterConfig
from kblam.adapter.files import adapter_folder, read_config
from kblam.errors import EngineError
from kblam.vllm import admission, architecture_of, registry
from kblam.vllm.families import family_of
from kblam.vllm.settings import EXECUTORS, NAME, Settings

BREAKABLE = "VLLM_USE_BREAKABLE_CUDAGRAPH"
CONNECTOR, CONNECTOR_MODULE = "KnowledgeConnector", "kblam.vllm.connector"
_OF_V1, _OF_V2 = "kblam.vllm.tracker:KnowledgeTracker", "kblam.vllm.state:KnowledgeAdmission"


def start_up(vllm_config: Any) -> None:
    """Checks and completes the config of an engine.

    Raises:
        EngineError: something cannot be served; the message has the reason.
        AdapterError: the adapter cannot be read.
    """
    _hook_of(vllm_config.model_config).verify_and_update_config(vllm_config)
    settings = Settings.of(vllm_config)
    adapter = read_config(adapter_folder(settings.adapter))
    refuse_engine(vllm_config)
    refuse_adapter(vllm_config, adapter)
    refuse_decided(vllm_config, settings, adapter)
    digest = hashlib.sha256(json.dumps(adapter.to_dict(), sort_keys=True).encode()).hexdigest()[:16]
    settings = dataclasses.replace(settings, digest=digest)
    vllm_config.additional_config[NAME] = dataclasses.asdict(settings)
    _complete(vllm_config)
    registry.open_folder(vllm_config)
    admission.opens(vllm_config, adapter)


def model_start_up(model_config: Any) -> None:
    """What the family itself wants of a model's config."""
    _hook_of(model_config).verify_and_update_model_config(model_config)


def _hook_of(model_config: Any) -> Any:
    found = MODELS_CONFIG_MAP.get(family_of(model_config.architecture).architecture, VerifyAndUpdateConfig)
    return getattr(found, "of_vllm", found)


def refuse_plain(vllm_config: Any) -> None:
    """Refuses knowledge for a model class of vLLM's own.

    Raises:
        EngineError: the engine was given some.
    """
    given, model = vllm_config.additional_config, vllm_config.model_config
    if isinstance(given, dict) and NAME in given:
        name = model.architectures[0]  # of the checkpoint; vLLM may have chosen another class for it
        raise EngineError(
            f"{model.architecture} would ignore additional_config[{NAME!r}]; start with "
            f"hf_overrides={{'architectures': ['{architecture_of(name)}']}}"
            + ("" if name == model.architecture else f", and leave model_impl={model.model_impl!r} out")
        )


def _breaks_graphs(model: Any) -> bool:
    """Whether vLLM runs a model's code only while it captures graphs; it decides that after it asked us."""
    if model.enforce_eager or not current_platform.is_cuda_alike():
        return False
    chosen = os.environ.get(BREAKABLE)
    return bool(envs.VLLM_BATCH_INVARIANT) if chosen is None else chosen == "1"


def refuse_engine(vllm_config: Any) -> None:
    """Refuses an engine in which knowledge would be left out or wrong.

    Raises:
        EngineError: with the reason.
    """
    parallel, model, cache = vllm_config.parallel_config, vllm_config.model_config, vllm_config.cache_config
    for reason, is_so in (
        (
            "speculative decoding: on the V1 runner vLLM leaves out what follows the batch, so that knowledge would be "
            "ignored in silence, and on V2 a draft sees no knowledge; start without speculative_config",
            vllm_config.speculative_config is not None,
        ),
        (
            "decode context parallelism: each rank has a part of the prompt, and the parts' sums are not to be had",
            parallel.decode_context_parallel_size > 1,
        ),
        (
            "prefill context parallelism: each rank has a part of the prompt, and the parts' sums are not to be had",
            getattr(parallel, "prefill_context_parallel_size", 1) > 1,
        ),
        ("pipeline parallelism: use tensor parallelism", parallel.pipeline_parallel_size > 1),
        (
            "workers on several machines, or Ray: scheduler and workers share small files (registry.py)",
            parallel.nnodes > 1 or parallel.use_ray,
        ),
        (
            f"the executor {parallel.distributed_executor_backend!r}: one scheduler tells all workers what requests "
            "attend to; use one of " + ", ".join(EXECUTORS),
            parallel.distributed_executor_backend not in (None, *EXECUTORS),
        ),
        (
            "data parallelism: an update would be told to its replicas one by one, and they would write into each "
            "other's files; start an engine for each with a load balancer in front, and tell each of updates",
            parallel.data_parallel_size > 1,
        ),
        (
            "several API server processes: questions are encoded, and bases checked, in the process that started the "
            "engine; start with --api-server-count 1",
            parallel._api_process_count > 1,
        ),
        ("two half batches at once (enable_dbo): a step's knowledge is planned for the whole", parallel.enable_dbo),
        ("latent attention (MLA): its queries are not those that an adapter was trained for", model.use_mla),
        (
            f"a quantised KV cache (kv_cache_dtype={cache.cache_dtype!r}): queries would be quantised with it; use "
            "'auto'",
            cache.cache_dtype not in ("auto", "bfloat16", "float16", "float32"),
        ),
        (
            "breakable CUDA graphs (VLLM_USE_BREAKABLE_CUDAGRAPH=1, which VLLM_BATCH_INVARIANT=1 sets too): what a "
            "model hears of each step would be that of the capture; set VLLM_USE_BREAKABLE_CUDAGRAPH=0, or start with "
            "enforce_eager",
            _breaks_graphs(model),
        ),
        ("a pooling model: nothing is generated", model.runner_type != "generate"),
        (
            "LoRA: an adapter knows the base model's weights, and nothing was checked with others; merge the LoRA into "
            "the model and train an adapter for that",
            vllm_config.lora_config is not None,
        ),
        (
            "a KV connector of its own: evidence takes that place",
            vllm_config.kv_transfer_config is not None and vllm_config.kv_transfer_config.kv_connector != CONNECTOR,
        ),
        (
            f"KV offloading (kv_offloading_size={cache.kv_offloading_size!r}): it has a KV connector, and evidence "
            "takes that place; start without it",
            cache.kv_offloading_size is not None,
        ),
        (
            "a worker extension of its own: one of kblam's loads and updates knowledge bases",
            bool(parallel.worker_extension_cls),
        ),
        (
            "a scheduler of its own: knowledge needs one that keeps caches of different bases apart",
            vllm_config.scheduler_config.scheduler_cls is not None,
        ),
    ):
        if is_so:
            raise EngineError(f"knowledge is not served with {reason}")


def refuse_adapter(vllm_config: Any, adapter: AdapterConfig) -> None:
    """Refuses an adapter that this model or this kind of engine cannot serve; its weights are compared after loading.

    Raises:
        EngineError: with the reason.
    """
    text = vllm_config.model_config.hf_text_config
    needed = AdapterConfig.for_model(text, adapter.embedding_dim)
    for name in ("num_layers", "hidden_size", "num_heads", "head_dim"):
        if getattr(adapter, name) != getattr(needed, name):
            raise EngineError(
                f"the adapter was made for {name}={getattr(adapter, name)}, this model has {getattr(needed, name)} "
                f"(adapter's base model: {adapter.base_model or 'not recorded'})"
            )
    if adapter.projector == "identity":
        raise EngineError("an adapter with the identity as projector has no latents to keep in the pool; train another")
    if adapter.top_k is not None:
        raise EngineError(
            f"the adapter attends to its {adapter.top_k} best triples only (top_k), which are chosen for a whole "
            "prompt, and an engine reads prompts in pieces; set top_k to null in its config to attend to all"
        )
    if windowed := [layer for layer in adapter.knowledge_layers if window_of(text, layer) is not None]:
        raise EngineError(
            f"knowledge layers {windowed} have a sliding window ({window_of(text, windowed[0])} tokens), which is not "
            "served; choose layers without one (`AdapterConfig.layers`)"
        )


def refuse_decided(vllm_config: Any, settings: Settings, adapter: AdapterConfig) -> None:
    """Refuses an engine in which answers that are decided could not be said.

    Raises:
        EngineError: with the reason; also if the settings decide by what the adapter has not.
    """
    rules = settings.rules(adapter)
    if not rules.config.pointer and rules.unknown is None:
        return
    for reason, is_so in (
        (
            "prompts of embeddings (enable_prompt_embeds): what an answer has said is told from its tokens",
            vllm_config.model_config.enable_prompt_embeds,
        ),
        (
            "batch-sharded sampling: it computes logits past the place where words are mixed in",
            vllm_config.parallel_config.enable_batch_sharded_sampling,
        ),
        (
            "no tokenizer (skip_tokenizer_init): answers are written with it",
            vllm_config.model_config.skip_tokenizer_init,
        ),
    ):
        if is_so:
            raise EngineError(f"an adapter with a pointer or a known_above is not served with {reason}")


def window_of(text_config: Any, layer: int) -> int | None:
    """The sliding window of a layer; None attends to the whole prompt."""
    window: int | None = getattr(text_config, "sliding_window", None)
    if kinds := getattr(text_config, "layer_types", None):
        return window if kinds[layer] == "sliding_attention" else None
    return window if getattr(text_config, "use_sliding_window", True) else None


def _complete(vllm_config: Any) -> None:
    from vllm.config import KVTransferConfig

    on_v2 = vllm_config.use_v2_model_runner
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    model.logits_processors = [*(model.logits_processors or []), _OF_V2 if on_v2 else _OF_V1]
    vllm_config.scheduler_config.scheduler_cls = "kblam.vllm.scheduler.knowledge_scheduler"
    vllm_config.kv_transfer_config = KVTransferConfig(
        kv_connector=CONNECTOR, kv_connector_module_path=CONNECTOR_MODULE, kv_role="kv_both"
    )
    parallel.worker_extension_cls = "kblam.vllm.worker.KnowledgeWorker"
