"""vLLM's scheduler with knowledge: it fixes which version a request attends to, and what it is to say."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.sched.utils import check_stop
from vllm.v1.engine import EngineCoreEventType, EngineCoreOutput, EngineCoreOutputs, FinishReason

from kblam.adapter import KnowledgeAdapter
from kblam.adapter.files import adapter_folder, read_config
from kblam.errors import EngineError, EngineRequestError, KblamError
from kblam.vllm.admission import (
    ADDED,
    ARGUMENTS,
    BASE,
    QUESTION,
    SAMPLES,
    STAMP,
    VECTOR,
    VECTORS,
    VERBATIM,
    FrontEnd,
    asked_of,
)
from kblam.vllm.deciding import Decider, Question
from kblam.vllm.files import VersionWords
from kblam.vllm.lookups import Lookup, Lookups, as_base_request, lookup_request
from kblam.vllm.parent import end_with_parent
from kblam.vllm.past import Past
from kblam.vllm.registry import Registry
from kblam.vllm.response import Response, Samples, said_of
from kblam.vllm.salts import salt_of_cache, salt_to_evidence, salt_without_base
from kblam.vllm.saying import Line
from kblam.vllm.settings import Settings

logger = logging.getLogger("kblam")


class WithKnowledge(Scheduler):
    """What both of vLLM's schedulers get."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = Settings.of(self.vllm_config)
        self._registry, self._most = Registry(self.vllm_config), settings.evidence
        self._front = FrontEnd(self.vllm_config, read_config(adapter_folder(settings.adapter)))
        self._decider = self._decider_of(settings)
        self._lookups, self._past = Lookups(), Past(self._registry.folder)
        self._responses: dict[str, Response] = {}
        # Those of several answers to one request: by that request, and those that ended in this step.
        self._samples: dict[tuple[int, str], Samples] = {}
        self._left: dict[str, Response] = {}
        self._in_use: Counter[int] = Counter()
        # Of requests that did not run: what the next step's outputs have.
        self._told: list[tuple[Any, EngineCoreOutput]] = []
        self.connector.ended = self._ended
        self._registry.say_in_use(frozenset())
        end_with_parent()

    def add_request(self, request: Any) -> None:
        """A request comes in. One that cannot be answered never runs: its output is an error."""
        if request.request_id in self.requests:  # a further piece of a prompt that streams in
            super().add_request(request)
            return
        try:
            question = self._fix(request)
            if question is not None:
                self._look_up(request, question)
                return
        except KblamError as error:
            self._refuse(request, error)
            return
        super().add_request(request)

    def _fix(self, request: Any) -> Question | None:
        """Fixes what a request attends to; returns the question that has to be looked up before it runs.

        Raises:
            KblamError: it cannot be answered.
        """
        asked = asked_of(request.sampling_params)
        loaded = self._front.check_encoded(asked, request.sampling_params)
        if asked.base is None or loaded is None:
            salt_without_base(request)
            return None
        rules = self._front.rules(asked)
        question = None
        if rules is not None and self._decider is not None and asked.question is not None:
            if request.prompt_token_ids is None or request.resumable:
                raise EngineRequestError(
                    "answers are decided at the end of a prompt of tokens that comes as a whole; for another one pass "
                    f"{VERBATIM}=false"
                )
            question = self._decider.question(
                asked.question, request.prompt_token_ids, request.sampling_params, loaded, rules, asked.vectors
            )
        # Others may share these parameters.
        request.sampling_params = copy.copy(request.sampling_params)
        stamp = {"request": request.request_id, "generation": loaded.generation}
        extra = {key: value for key, value in request.sampling_params.extra_args.items() if key != VECTORS}
        request.sampling_params.extra_args = {**extra, STAMP: stamp}
        most, may_end_early = self._most if asked.evidence else 0, bool(request.sampling_params.stop)
        words = VersionWords(loaded, self._past) if self._decider is None else self._decider.words(loaded)
        response = Response(asked.base, loaded, words, most, may_end_early)
        # Before it attends to a version: the workers may free those that nobody says he uses.
        if not self._in_use[loaded.generation]:
            self._registry.say_in_use(frozenset({*self._in_use, loaded.generation}))
        response.sample = self._sample_of(request)
        self._responses[request.request_id] = response
        self._in_use[loaded.generation] += 1
        if question is None:
            salt_of_cache(request, asked.base, loaded)
        return question

    def _sample_of(self, request: Any) -> tuple[Samples, int] | None:
        """Of a request that is one of several answers to another; vLLM calls it by its index and the other's id."""
        count = (getattr(request.sampling_params, "extra_args", None) or {}).get(SAMPLES)
        index, underscore, parent = request.request_id.partition("_")
        if type(count) is not int or not underscore or not index.isdecimal() or int(index) >= count:
            return None
        return self._samples.setdefault((request.client_index, parent), Samples(count)), int(index)

    def _look_up(self, request: Any, question: Question) -> None:
        """Holds a request back until what its question finds is known.

        Raises:
            KblamError: a part cannot be asked.
        """
        assert self._decider is not None
        if self._lookups.join(request, question):
            return
        texts: dict[str, str] = {}
        made = []
        for number, text in enumerate((question.text, *question.parts)):
            prompt = list(question.prompt) if number == 0 else self._decider.prompt_of(text)
            if len(prompt) >= self.max_model_len:
                raise EngineRequestError(f"a part of the question takes {len(prompt)} tokens: {text!r:.80}")
            one = self._reader(request, number, question, text, prompt, len(prompt) - 1)
            texts[one.request_id] = text
            made.append(one)
        self._lookups.begin(request, question, texts)
        for one in made:
            super().add_request(one)

    def _reader(
        self,
        asker: Any,
        name: int | str,
        question: Question,
        text: str,
        prompt: list[int],
        first: int,
        blocks: int | None = None,
    ) -> Any:
        """A request that only its evidence is wanted of.

        Args:
            asker, name, prompt, blocks: as `lookup_request` takes them.
            question: that is looked up.
            text: whose vector is in the knowledge queries, the question's or a part's.
            first: of the prompt's tokens that evidence is wanted of.

        Raises:
            KblamError: the text cannot be encoded.
        """
        assert self._decider is not None
        base = self._responses[asker.request_id].base
        made = lookup_request(asker, name, prompt, blocks)
        extra = {BASE: base, QUESTION: text, VERBATIM: False}
        if self._front.adapter.question_head is not None:
            extra[VECTOR] = self._decider.vector_of(question, text)
        stamp = {"request": made.request_id, "generation": question.loaded.generation, "to_evidence": first}
        made.sampling_params.extra_args = {**extra, STAMP: {**stamp, "named": question.named.get(text, ())}}
        salt_to_evidence(made, base, question.loaded, self._front.adapter)
        return made

    def _answer(self, lookup: Lookup) -> None:
        """Lets the requests run that waited for a lookup, with what it decides."""
        assert self._decider is not None
        try:
            planned, line = self._decider.decided(lookup.question, lookup.found)
        except KblamError as error:
            for request in lookup.askers:
                self._refuse(request, error)
            return
        named = lookup.question.named.get(lookup.question.text, ())
        for request in lookup.askers:
            response = self._responses[request.request_id]
            response.plan, response.decides = planned, lookup.question.rules.known_above is not None
            if planned.decision.is_base:
                try:
                    request = self._as_base(request)
                except KblamError as error:
                    self._refuse(request, error)
                    continue
            elif line is not None and self._decider.is_foregone(lookup.question, line, request.sampling_params):
                try:
                    self._say_at_once(request, lookup, line)
                except KblamError as error:
                    self._refuse(request, error)
                continue
            else:
                extra = request.sampling_params.extra_args
                request.sampling_params.extra_args = {**extra, STAMP: {**extra[STAMP], "line": line, "named": named}}
                salt_of_cache(request, response.base, response.loaded)
            super().add_request(request)

    def _say_at_once(self, request: Any, lookup: Lookup, line: Line) -> None:
        """Has a request say its line without a step for each token; its tokens are read together for their evidence.

        Raises:
            KblamError: they cannot be.
        """
        said, blocks = list[int](), len(request.block_hashes)  # those that the question fills
        for token in line.tokens:
            said.append(token)
            request.append_output_token_ids(token)
            if check_stop(request, self.max_model_len):
                break
        question = lookup.question
        self._responses[request.request_id].add(lookup.found.get(question.text, ()))
        # What the last token attends to, nothing follows.
        if len(said) == 1 or not asked_of(request.sampling_params).evidence:
            self._tell(request, said, lookup)
            return
        prompt = [*question.prompt, *said[:-1]]
        reader = self._reader(request, "answer", question, question.text, prompt, len(question.prompt), blocks)
        self._lookups.read(request, lookup, said, reader.request_id)
        super().add_request(reader)

    def _tell(self, request: Any, said: list[int], lookup: Lookup) -> None:
        """A request's output is what it was to say, and its end."""
        response = self._forget(request.request_id)
        assert response is not None
        if self.log_stats:  # its prompt was read by the lookup
            request.record_event(EngineCoreEventType.QUEUED, lookup.begun)
            request.record_event(EngineCoreEventType.SCHEDULED, lookup.begun)
        output = EngineCoreOutput(
            request_id=request.request_id,
            new_token_ids=said,
            finish_reason=request.get_finished_reason(),
            stop_reason=request.stop_reason,
            events=request.take_events(),
            prefill_stats=lookup.prefill,
            kv_transfer_params={STAMP: response.told(response.said(said, self._decider))},
            trace_headers=request.trace_headers,
        )
        self._told.append((request, output))

    def _as_base(self, request: Any) -> Any:
        """A request as it would be if nothing were attached.

        Raises:
            KblamError: it has no prompt, or no room.
        """
        assert self._decider is not None
        asked = asked_of(request.sampling_params)
        prompt = asked.base_prompt or self._decider.base_prompt_of(str(asked.question))
        if len(prompt) >= self.max_model_len:
            raise EngineRequestError(
                f"the base model's prompt takes {len(prompt)} tokens, and there is room for {self.max_model_len}"
            )
        params = copy.copy(request.sampling_params)
        ours = (*ARGUMENTS, *ADDED, STAMP)
        params.extra_args = {key: value for key, value in params.extra_args.items() if key not in ours}
        return as_base_request(request, list(prompt), params)

    def _refuse(self, request: Any, error: KblamError) -> None:
        """Its output is an error."""
        response, said = self._forget(request.request_id), said_of(error)
        if response is not None:
            said = response.told(said)
        elif (sample := self._sample_of(request)) is not None:  # before it had a response; others of its kind may have
            said = sample[0].told(sample[1], said)
            self._end_sample(sample[0])
        output = EngineCoreOutput(
            request_id=request.request_id,
            new_token_ids=[],
            finish_reason=FinishReason.ERROR,
            kv_transfer_params={STAMP: said},
        )
        self._told.append((request, output))

    def finish_requests(self, request_ids: Any, finished_status: Any) -> list[Any]:
        """Ends requests from outside, those too that wait for a lookup."""
        if request_ids is not None:
            request_ids = {request_ids} if isinstance(request_ids, str) else set(request_ids)
        dropped, idle = self._lookups.drop(request_ids)
        for request in dropped:
            request.status = finished_status
            self._forget(request.request_id)
        ended = super().finish_requests(None if request_ids is None else request_ids.union(idle), finished_status)
        return [*dropped, *(request for request in ended if request.request_id not in idle)]

    def has_requests(self) -> bool:
        """What did not run is told by the next step."""
        return bool(self._told) or super().has_requests()

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> dict[int, EngineCoreOutputs]:
        """Collects the step's evidence, before requests end by it."""
        came = model_runner_output.kv_connector_output
        step = None if came is None else came.kv_connector_worker_meta
        for request_id, found in {} if step is None else step.found.items():
            self._lookups.note(request_id, found)
            if (response := self._responses.get(request_id)) is not None:
                response.add(found)
        looking = {request_id for request_id in scheduler_output.num_scheduled_tokens if request_id in self._lookups}
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(scheduler_output, model_runner_output)
        for of_client in outputs.values():
            for output in of_client.outputs:
                self._lookups.measured(output.request_id, output.prefill_stats)
            of_client.outputs = [output for output in of_client.outputs if output.request_id not in looking]
            for output in of_client.outputs:
                response = self._responses.get(output.request_id)
                if response is not None and response.may_end_early:
                    said = response.said(self.requests[output.request_id].output_token_ids, self._decider)
                    output.kv_transfer_params = {STAMP: response.told(said)}
        for output in (output for of_client in outputs.values() for output in of_client.outputs):
            # What another answer has said in this very step, too: this one may be the last to be told.
            response = self._responses.get(output.request_id) or self._left.get(output.request_id)
            if output.kv_transfer_params and response is not None and response.sample is not None:
                output.kv_transfer_params = {STAMP: response.sample[0].of_all()}
        self._left.clear()
        for lookup in self._lookups.finished():
            if lookup.said is None:
                self._answer(lookup)
            else:
                (request,) = lookup.askers
                self._responses[request.request_id].add(lookup.found.get(lookup.question.text, ()))
                self._tell(request, lookup.said, lookup)
        for request, output in self._told:
            outputs.setdefault(request.client_index, EngineCoreOutputs()).outputs.append(output)
        self._told.clear()
        return outputs

    def _ended(self, request: Any) -> dict[str, Any] | None:
        """Called once for each request that ends, in whatever way: what its output says of knowledge."""
        self._lookups.ended(request.request_id)
        response = self._forget(request.request_id)
        if response is None:
            return None
        return {STAMP: response.told(response.said(request.output_token_ids, self._decider))}

    def _forget(self, request_id: str) -> Response | None:
        response = self._responses.pop(request_id, None)
        if response is not None:
            if response.sample is not None:
                self._left[request_id] = response
                self._end_sample(response.sample[0])
            generation = response.loaded.generation
            self._in_use[generation] -= 1
            if not self._in_use[generation]:
                del self._in_use[generation]
                try:
                    self._registry.say_in_use(frozenset(self._in_use))
                except EngineError as error:  # a version keeps its room until the next request ends
                    logger.warning("%s", error)
        return response

    def _end_sample(self, samples: Samples) -> None:
        samples.left -= 1
        if not samples.left:
            self._samples = {key: one for key, one in self._samples.items() if one is not samples}

    def _decider_of(self, settings: Settings) -> Decider | None:
        """None for an adapter that decides nothing."""
        config = self._front.adapter
        if not config.pointer and config.known_above is None and settings.known_above is None:
            return None
        decider = Decider(self.vllm_config, KnowledgeAdapter.from_pretrained(adapter_folder(settings.adapter)))
        for loaded in self._registry.bases().values():
            decider.know(loaded)
        return decider


class KnowledgeScheduler(WithKnowledge):
    """Over vLLM's scheduler."""


class AsyncKnowledgeScheduler(WithKnowledge, AsyncScheduler):
    """Over the one that runs ahead of the model."""


def knowledge_scheduler(*, vllm_config: Any, **others: Any) -> WithKnowledge:
    """The scheduler for an engine; vLLM calls it as it would a class."""
    kind = AsyncKnowledgeScheduler if vllm_config.scheduler_config.async_scheduling else KnowledgeScheduler
    return kind(vllm_config=vllm_config, **others)
