"""How lm-eval's instances become a model's tokens, by a tokenizer and a config alone, and what it writes texts.

What is asked, how it is encoded and truncated follows lm-eval's own `HFLM` (models/huggingface.py, 0.4.13), so that
scores compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from jaxpaint.base.errors import UserError
from jaxpaint.engine.packing import Request
from jaxpaint.generation import GenerationSettings, Prompt, Sampling, generate
from jaxpaint.generation.settings import HONOURED, NONE, NOT_HONOURED, generation_settings, parse_settings
from jaxpaint.generation.text import finished_text
from jaxpaint.models.family import Config, require_decoder
from jaxpaint.plans.plan import Plan
from jaxpaint.tasks.asking import DEFAULT_DRAWING_SEED, USUAL, Asking
from jaxpaint.tasks.chat import chosen_template, rendered

if TYPE_CHECKING:
    from lm_eval.tasks.manager import TaskDict

    from jaxpaint.engine.model import Model
    from jaxpaint.engine.source import Source

# New tokens where a task does not say how many, as in lm-eval's HFLM.
DEFAULT_MAX_GEN_TOKS = 256

Bos: TypeAlias = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Asked:
    """A prompt with how its tokens are chosen."""

    prompt: Prompt
    sampling: Sampling
    settings: GenerationSettings = NONE


@dataclass(frozen=True, eq=False)
class Encoding:
    """Encodes for the model of `config`, by its `tokenizer`.

    `bos` "on" and "off" say whether a beginning-of-sequence token precedes every text (lm-eval's `add_bos_token`);
    "auto" leaves it to the tokenizer, as lm-eval 0.4.13 does. The paper's runs used off. `generation` is what the
    checkpoint says of how it is written with. `longest` is in place of the model's length (lm-eval's `max_length`),
    `chat_template` what conversations are written by, `drawing_seed` that of drawn tokens.

    Raises:
        UserError: a tokenizer that lacks the BOS token asked for, or every token that could begin a text; a length
            that the model does not have.
    """

    tokenizer: Any
    config: Config
    bos: Bos = "auto"
    generation: GenerationSettings = NONE
    longest: int | None = None
    chat_template: str | None = None
    drawing_seed: int = 0

    def __post_init__(self) -> None:
        if self.bos == "on" and self.tokenizer.bos_token_id is None:
            raise UserError("--bos on: this checkpoint's tokenizer has no BOS token; use --bos off")
        if self.prefix_token_id is None:
            raise UserError(
                "this checkpoint's tokenizer has neither a BOS nor an EOS token to stand before an empty context; name "
                "one in its tokenizer_config.json and convert again"
            )
        require_length(self.longest, self.config)

    @classmethod
    def of(
        cls, model: Model | Source, bos: Bos = "auto", *, max_length: int | None = None, asking: Asking = USUAL
    ) -> Encoding:
        """A decoder's, for documents asked so. `max_length` is in tokens (default: the model's).

        Raises UserError for an encoder, a checkpoint without a tokenizer or the chat template asked for; else as the
        class.
        """
        require_decoder(model.config, "this evaluation")
        template = chosen_template(model.tokenizer, asking.apply_chat_template)
        settings = generation_settings(model)
        return cls(model.tokenizer, model.config, bos, settings, max_length, template, asking.drawing_seed)

    @property
    def prefix_token_id(self) -> int:
        """What stands before an empty context: BOS, or EOS where the tokenizer has no BOS (as `HFLM`)."""
        bos = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if bos is None else bos

    @property
    def described_generation(self) -> dict[str, Any]:
        """What of the checkpoint's generation settings is more than ending at the tokenizer's end of sequence."""
        return self.generation.described(self.tokenizer.eos_token_id)

    @property
    def max_length(self) -> int:
        return self.longest or self.config.max_position_embeddings

    def chat(self, turns: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text (lm-eval's `apply_chat_template`). Raises UserError where the template fails."""
        assert self.chat_template is not None
        return rendered(self.tokenizer, self.chat_template, turns, add_generation_prompt)

    def tokens(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        if add_special_tokens is None:
            add_special_tokens = {"on": True, "off": False}.get(self.bos)
            if has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
                add_special_tokens = False
        chosen = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        # Not verbose, because a text longer than the model is cut or windowed here: nothing to warn of.
        tokens = list(self.tokenizer.encode(string, verbose=False, **chosen))
        if self.bos == "on" and add_special_tokens and tokens[:1] != [self.tokenizer.bos_token_id]:
            # Some tokenizers' templates lack the BOS token that the user asked for.
            tokens = [self.tokenizer.bos_token_id, *tokens]
        return tokens

    @property
    def adds_bos(self) -> bool:
        """Whether texts are in fact encoded with a leading BOS token."""
        return self.tokens("a")[:1] == [self.tokenizer.bos_token_id]

    def encode(self, instance: Instance) -> tuple[Request, ...]:
        """What runs to score an instance: one request, or for a rolling text one for each window, in order.

        Raises UserError for a continuation that is longer than the model's context or has no token of its own, or a
        token id outside the vocabulary.
        """
        try:
            return tuple(self._request(*pair) for pair in self._token_pairs(instance))
        except UserError as error:
            raise UserError(f"{instance.task_name}, document {instance.doc_id}: {error}") from None

    def _token_pairs(self, instance: Instance) -> list[tuple[list[int], list[int]]]:
        """Contexts and continuations: one pair, or for a rolling text disjoint windows that predict each token once."""
        if instance.request_type == "loglikelihood_rolling":
            windows = get_rolling_token_windows(
                token_list=self.tokens(instance.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            return [make_disjoint_window(window) for window in windows]
        context, continuation = instance.args
        if context:
            # As `TemplateLM._encode_pair`: spaces at a context's end belong to what follows.
            spaces = context[len(context.rstrip()) :]
            before = self.tokens(context.removesuffix(spaces))
            return [(before, self.tokens(context + continuation)[len(before) :])]
        # As `TemplateLM.loglikelihood`: a text that begins with BOS is its own context.
        tokens = self.tokens(continuation, add_special_tokens=False)
        own = tokens[:1] == [self.prefix_token_id]
        return [(tokens[:1], tokens[1:]) if own else ([self.prefix_token_id], tokens)]

    def _request(self, context: list[int], continuation: list[int]) -> Request:
        if not continuation:
            end = self.tokenizer.decode(context[-8:])
            raise UserError(
                f"a continuation of ...{end!r} has no token of its own, so there is nothing to score; it may be empty, "
                "or lack the space before its first word"
            )
        request = Request.of(context, continuation, self.max_length)
        self._check_vocabulary(chain(request.tokens, request.targets))
        return request

    def _check_vocabulary(self, tokens: Iterable[int]) -> None:
        if (largest := max(tokens, default=0)) >= self.config.vocab_size:
            # JAX would take the last entry in its place, without a word.
            raise UserError(
                f"the tokenizer gives token id {largest}, but the model's vocabulary has "
                f"{self.config.vocab_size} entries; is it this model's tokenizer?"
            )

    def encode_prompt(self, instance: Instance) -> Asked:
        """What a generative instance asks for; a context too long for the model loses its beginning, as in `HFLM`.

        Raises UserError for generation settings that are not known, a token id outside the model's vocabulary, or no
        room for a context beside the new tokens.
        """
        context, given = instance.args
        values, new = _new_tokens(instance.task_name, given, self.max_length)
        end = self.tokenizer.eos_token_id
        spelt = None if end is None else self.tokenizer.decode(end, skip_special_tokens=False)
        stop = tuple(handle_stop_sequences(values.pop("until", None), eos=spelt))
        tokens = (self.tokens(context) or [self.prefix_token_id])[new - self.max_length :]
        self._check_vocabulary(tokens)
        sampling, changed = _choosing(instance.task_name, values, self.drawing_seed)
        settings = replace(self.generation, **changed)
        # With transformers' generate it goes before the length that a task gives.
        if settings.max_new_tokens is not None:
            new = min(settings.max_new_tokens, self.config.max_position_embeddings - len(tokens))
        return Asked(Prompt(tuple(tokens), new, stop), sampling, settings)


def require_length(longest: int | None, config: Config) -> None:
    """Raises UserError for a length, in place of the model's, that the model does not have."""
    if longest is not None and not 1 <= longest <= config.max_position_embeddings:
        raise UserError(
            f"--max-length is {longest}; expected 1 to the model's {config.max_position_embeddings} positions"
        )


def require_generation(tasks: TaskDict, longest: int | None, config: Config) -> None:
    """Raises UserError for generation settings of loaded tasks that `Encoding.encode_prompt` would refuse, whatever the
    documents: what is not known, or leaves no room for a prompt in `longest` tokens (None: in the model's positions).
    """
    from lm_eval.api.task import ConfigurableTask

    for name, task in tasks["tasks"].items():
        # Tasks of other classes may ask with settings of their own.
        own = getattr(type(task), "construct_requests", None) is not ConfigurableTask.construct_requests
        if task.OUTPUT_TYPE == "generate_until" and not own:
            given = task.get_config("generation_kwargs") or {}
            values, _ = _new_tokens(name, given, longest or config.max_position_embeddings)
            handle_stop_sequences(values.pop("until", None), eos=None)
            _choosing(name, values, DEFAULT_DRAWING_SEED)


def _new_tokens(task: str, given: Mapping[str, Any], longest: int) -> tuple[dict[str, Any], int]:
    """Generation settings by one name each, and how many tokens may be written. Raises UserError where these leave no
    room for a prompt."""
    values = {**normalize_gen_kwargs(given, DEFAULT_MAX_GEN_TOKS)}
    new = values.pop("max_gen_toks")
    if new >= longest:
        raise UserError(f"{task}: {new} new tokens leave no room for a prompt in the model's {longest} positions")
    return values, new


def _choosing(task: str, values: dict[str, Any], drawing_seed: int) -> tuple[Sampling, dict[str, Any]]:
    """Of the generation settings that a task gives besides texts and lengths: how tokens are drawn, and what goes
    before the checkpoint's `GenerationSettings`. Raises UserError for one that is not known, or a value that cannot be.
    """
    do_sample = values.pop("do_sample", False)
    temperature = values.pop("temperature", None)
    known = {name: values.pop(name) for name in ("top_k", "top_p", "seed") if name in values}
    own = {name: values.pop(name) for name in HONOURED if name in values}
    values = {name: value for name, value in values.items() if value != NOT_HONOURED.get(name, ...)}
    if values:
        raise UserError(
            f"{task}: the generation setting {next(iter(values))!r} is not known; known are until, max_gen_toks, "
            f"do_sample, temperature, top_k, top_p, seed, {', '.join(HONOURED)}"
        )
    sampling = Sampling(temperature or 1.0, **{"seed": drawing_seed, **known}) if do_sample else Sampling()
    given = parse_settings(own, f"{task}: generation settings")
    return sampling, {name: value for name, value in asdict(given).items() if own.get(name) is not None}


def answers(
    model: Model, asked: Sequence[Asked], plans: Sequence[Plan], **options: Any
) -> Iterator[tuple[int, int, str | None]]:
    """What the plans write after each prompt, as it is done: (number of the prompt, of the plan, text).

    The text is as lm-eval takes it, None where logits were not finite. `options` and errors are those of
    `jaxpaint.generation.generate`.
    """
    for sampling, settings in dict.fromkeys((each.sampling, each.settings) for each in asked):
        members = [n for n, each in enumerate(asked) if (each.sampling, each.settings) == (sampling, settings)]
        prompts = [asked[number].prompt for number in members]
        for found in generate(model, prompts, plans, sampling=sampling, settings=settings, **options):
            stop, failed = prompts[found.prompt].stop, found.ending == "not finite"
            # The token that ends a text is part of it, unless it is a special one.
            tokens = found.tokens if found.end is None else (*found.tokens, found.end)
            text = None if failed else finished_text(model.tokenizer, tokens, stop)
            yield members[found.prompt], found.plan, text
