"""What a request is to say, decided in the scheduler as `ask` decides it.

A question is looked up before it is answered: its prompt, and each part of a question about two facts, is read by a
request of its own that ends after one token (`lookups.py`). What they found is judged and planned here, by the code of
`kblam.generation`; the workers then only follow the plan (`saying.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.adapter.property_head import PRONOUN
from kblam.errors import EngineError, GenerationError, GenerationFailedError
from kblam.generation.clauses import Split
from kblam.generation.decision import Rules, decide
from kblam.generation.parts import as_meant, cuts_of, part_texts, with_found
from kblam.generation.plan import Plan, plan, refusal_tokens
from kblam.generation.prompt import TOKENIZING, encode_for_base, encode_question
from kblam.generation.wording import CONTEXT, Wordings
from kblam.generation.words import Found, judged
from kblam.knowledge import Encoder
from kblam.knowledge.encoders import layered
from kblam.knowledge.encoders.checked import encoded
from kblam.knowledge.mention import without_name
from kblam.models.families import FAMILIES, Family
from kblam.models.judging import MOST_OF_NAME
from kblam.models.loading import load_tokenizer
from kblam.models.prompt import Prompted
from kblam.vllm.files import BaseNames, Judges, VersionWords, opened
from kblam.vllm.past import Past
from kblam.vllm.registry import Loaded, Registry, folder_of
from kblam.vllm.saying import Line


@dataclass(frozen=True)
class HowAsked:
    """How the adapter's model is asked: what an `Attachment` is elsewhere."""

    config: AdapterConfig
    family: Family


@dataclass(frozen=True)
class Question:
    """A question that is to be answered word for word.

    Args:
        text: as it is meant (`as_meant`).
        prompt: token ids of the request.
        loaded: the version of the knowledge base.
        rules: what counts as known, and what becomes of the rest.
        cuts: the ways to cut it.
        end: the token that ends its answer; None if there is none.
        named: ids of the triples whose names it says, and those of each part, by text.
        vectors: as `Decider.encode` has them, that came with it, by text; for this question alone, since nobody has
            proved them.
    """

    text: str
    prompt: Sequence[int]
    loaded: Loaded
    rules: Rules
    cuts: Sequence[Split]
    end: int | None
    named: Mapping[str, tuple[int, ...]]
    vectors: Mapping[str, Sequence[float]]

    @property
    def parts(self) -> list[str]:
        """The questions that are asked besides, alone."""
        return part_texts([self.cuts])


class Decider:
    """Decides for the requests of one engine. For one thread.

    Args:
        vllm_config: of the engine.
        adapter: in float32, on the CPU.

    Raises:
        EngineError: the model's tokenizer cannot be used.
    """

    def __init__(self, vllm_config: Any, adapter: KnowledgeAdapter) -> None:
        model = vllm_config.model_config
        text = model.hf_text_config
        self.tokenizer = load_tokenizer(model.tokenizer, model.tokenizer_revision)
        self.asked: Prompted = HowAsked(
            adapter.config, FAMILIES.get(text.model_type, Family(text.model_type, text.model_type))
        )
        self._adapter, self._vocabulary = adapter, model.get_vocab_size()
        self._wordings = Wordings(self.tokenizer)
        # Of the question that is being decided.
        self._vectors: Mapping[str, Sequence[float]] = {}
        self._encoder: Encoder | None = None
        self._encoder_of: str | None = None  # its fingerprint, without the layers
        self._judges = Judges(adapter, self.encode, Registry(vllm_config).bases)
        self._words: dict[int, VersionWords] = {}
        self._past = Past(folder_of(vllm_config))
        generation = model.try_get_generation_config().get("eos_token_id")
        self._ends = _ids(generation) or _ids(getattr(text, "eos_token_id", None)) or _ids(self.tokenizer.eos_token_id)
        try:  # what cannot be is told here, not by the first request
            encode_question("Who?", self.asked, self.tokenizer)
        except GenerationError as error:
            raise EngineError(str(error)) from error
        with suppress(GenerationError):  # it is told to who needs it; rendered later, it would hold up all requests
            encode_for_base("Who?", self.asked, self.tokenizer)

    def know(self, loaded: Loaded) -> None:
        """Makes ready what the questions to a version need, which takes a while for a new base.

        Raises:
            KblamError: its file cannot be read, or its properties not be encoded.
        """
        if self._encoder is None or self._encoder_of != loaded.encoder:
            encoder = opened(loaded).encoder
            self._encoder, self._encoder_of = layered(encoder, self.asked.config.property_layers), loaded.encoder
        self._vectors = {}  # what nobody has proved must not become a property's
        self._judges.of(loaded)

    def encode(self, texts: list[str]) -> Tensor:
        """What the judge reads of texts, float32 (n, (L + 1) P): the last P are the sentence vector.

        Raises:
            EncoderError: the encoder cannot be loaded, or fails.
        """
        fresh: dict[str, Tensor] = {}
        if new := [text for text in dict.fromkeys(texts) if text not in self._vectors]:
            assert self._encoder is not None  # `know` comes first
            fresh = dict(zip(new, torch.from_numpy(encoded(self._encoder, new)), strict=True))
        return torch.stack(
            [fresh[text] if text in fresh else torch.tensor(self._vectors[text], dtype=torch.float32) for text in texts]
        )

    def vector_of(self, question: Question, text: str) -> list[float]:
        """The sentence vector of a question or one of its parts.

        Raises:
            EncoderError: as `encode`.
        """
        self._vectors = question.vectors
        found: list[float] = self.encode([text])[0, -self.asked.config.embedding_dim :].tolist()
        return found

    def question(
        self,
        text: str,
        prompt: Sequence[int],
        params: Any,
        loaded: Loaded,
        rules: Rules,
        vectors: Mapping[str, Sequence[float]],
    ) -> Question:
        """A question with the ways to cut it.

        Args:
            text: as `ask` takes it.
            prompt, loaded, rules, vectors: as `Question` has them.
            params: vLLM's sampling parameters of the request.

        Raises:
            KblamError: as `know`.
        """
        self.know(loaded)
        judge = self._judges.of(loaded)
        assert self._encoder is not None  # `know` has come first
        text = as_meant(rules.config, text, judge, self._encoder)
        cuts = cuts_of(rules, text, judge)
        named: dict[str, tuple[int, ...]] = {}
        if judge is not None:
            base = opened(loaded)
            for one in (text, *part_texts([cuts])):
                ids = base.ids_of(judge.names_meant(one), most=MOST_OF_NAME)
                named[one] = tuple(dict.fromkeys(ids))[:MOST_OF_NAME]
        return Question(text, prompt, loaded, rules, cuts, self._end_of(params), named, vectors)

    def prompt_of(self, text: str) -> list[int]:
        """Token ids of a part, as `ask` puts it to the model.

        Raises:
            GenerationError: it is empty.
        """
        with TOKENIZING:
            return encode_question(text, self.asked, self.tokenizer)

    def base_prompt_of(self, text: str) -> list[int]:
        """Token ids of a question, as the base model is asked it.

        Raises:
            GenerationError: the tokenizer's chat template cannot be used.
        """
        with TOKENIZING:
            return encode_for_base(text, self.asked, self.tokenizer)

    def decided(self, question: Question, found: Mapping[str, Sequence[tuple[int, float]]]) -> tuple[Plan, Line | None]:
        """What is to be said to a question, and as the workers need it; None leaves all to the model.

        Args:
            question: that was looked up.
            found: by text, the ids of triples at the end of its prompt and their masses, the largest first; the whole
                question's by its own text.

        Raises:
            KblamError: the sentence cannot be written, or the words not be read.
        """
        texts = list(dict.fromkeys((question.text, *question.parts)))
        judge = self._judges.of(question.loaded)
        self._vectors = question.vectors
        each = judged(judge, texts, [self._found(question.loaded, found.get(text, ())) for text in texts])
        by_text = dict(zip(texts, each, strict=True))
        decision = decide(question.rules, question.text, by_text[question.text], with_found(question.cuts, by_text))
        prompt = question.prompt[-CONTEXT:]
        with TOKENIZING:
            planned = plan(decision, prompt, self._wordings, question.end)
            refusal = refusal_tokens(self.asked.config, prompt, self._wordings, question.end)
        if (most := max((*planned.tokens, *refusal), default=0)) >= self._vocabulary:
            raise GenerationFailedError(
                f"the tokenizer gave token {most}, the model has {self._vocabulary}: it is another model's tokenizer"
            )
        if not planned.tokens and not refusal:
            return planned, None
        return planned, Line(
            tokens=planned.tokens,
            settled=planned.settled,
            begun=planned.begun,
            mass=decision.mass,
            facts=tuple(fact.place for fact in decision.facts),
            known=decision.is_known,
            sure=question.rules.insists_on(decision),
            refusal=tuple(refusal),
        )

    def is_foregone(self, question: Question, line: Line, params: Any) -> bool:
        """Whether all that comes of a request is the line, to its end, whatever the model makes of the question.

        A model's own tokens are drawn where it samples, and shown where log-probabilities are asked for. Where a stop
        string ends an answer the front end says when, token by token.

        Args:
            question: that was decided.
            line: of it.
            params: vLLM's sampling parameters of the request.
        """
        shown = params.logprobs, params.prompt_logprobs, params.logprob_token_ids
        return (
            line.is_certain
            and question.end in self._stops(params)
            and line.tokens[-1] == question.end
            and params.temperature == 0
            and params.repetition_penalty == 1
            and not params.stop
            and all(one is None for one in shown)
        )

    def words(self, loaded: Loaded) -> VersionWords:
        """Of the triples of a version."""
        found = self._words.get(loaded.generation)
        if found is None:
            for old in sorted(self._words)[: max(0, len(self._words) - 63)]:
                del self._words[old]
            found = self._words[loaded.generation] = VersionWords(loaded, self._past)
        return found

    def _found(self, loaded: Loaded, best: Sequence[tuple[int, float]]) -> list[Found]:
        """With its words, the id in place of its place in a copy; without those that the file has changed since."""
        words = self.words(loaded).of(one for one, _ in best)
        return [Found(one, triple, mass) for one, mass in best if mass > 0 and (triple := words[one]) is not None]

    def _end_of(self, params: Any) -> int | None:
        """The end token that `ask` would take, if the request ends at it; else one at which it does."""
        stops = self._stops(params)
        return next((one for one in self._ends if one in stops), next(iter(stops), next(iter(self._ends), None)))

    @staticmethod
    def _stops(params: Any) -> set[int]:
        """The tokens that a request ends at."""
        return {*params.stop_token_ids, *_ids(params.eos_token_id)}


def foreseen(question: str, names: BaseNames, rules: Rules) -> list[str]:
    """The texts whose sentence vectors a decision about a question needs, as far as its names tell.

    Args:
        question: as it is meant.
        names: of the knowledge base.
        rules: how to decide.
    """
    texts = [question, *part_texts([cuts_of(rules, question, names)])]
    bare = [without_name(text, text[start:end], PRONOUN) for text in texts for start, end in names.names_in(text)]
    return list(dict.fromkeys([*texts, *(text for text in bare if text is not None)]))


def _ids(given: int | list[int] | None) -> list[int]:
    return [] if given is None else list(given) if isinstance(given, list | tuple) else [int(given)]
