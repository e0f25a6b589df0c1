"""How a checkpoint wants to be written with: where texts end, and what else changes greedy text.

Read as transformers' `generate` reads a folder: `generation_config.json`, or where there is none the settings of
generation that older `config.json`s hold. What changes greedy text and is not done here is named (`not_honoured`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from jaxpaint.base.documents import checked, read_json
from jaxpaint.models.checkpoint import GENERATION_CONFIG
from jaxpaint.models.manifest import require_same_files

if TYPE_CHECKING:
    from jaxpaint.engine.model import Model
    from jaxpaint.engine.source import Source

# By what transformers' generate changes greedy text and this project does not, each with the value that does nothing.
NOT_HONOURED: Mapping[str, Any] = MappingProxyType(
    {
        **{"num_beams": 1, "num_beam_groups": 1, "diversity_penalty": 0.0, "num_return_sequences": 1},
        **{"no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0},
        **{"bad_words_ids": None, "sequence_bias": None, "exponential_decay_length_penalty": None},
        **{"force_words_ids": None, "constraints": None, "guidance_scale": 1.0, "watermarking_config": None},
        **{"token_healing": False, "stop_strings": None, "max_time": None, "remove_invalid_values": False},
        **{"penalty_alpha": 0.0, "dola_layers": None, "custom_generate": None},
    }
)
# What leaves greedy text as it is: names and lengths that the caller gives, drawing, the ends of beams, speed, form.
_HARMLESS = """
    bos_token_id pad_token_id decoder_start_token_id transformers_version _from_model_config _commit_hash max_length
    do_sample temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff early_stopping length_penalty
    renormalize_logits use_cache cache_implementation cache_config max_cache_len return_legacy_cache compile_config
    disable_compile output_attentions output_hidden_states output_scores output_logits return_dict_in_generate
    is_assistant num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold
    prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit assistant_lookbehind target_lookbehind
    assistant_ensemble_weight speculation_type use_mtp low_memory prefill_chunk_size continuous_batching_config
    chat_format
"""
HARMLESS = frozenset(_HARMLESS.split())


@dataclass(frozen=True)
class GenerationSettings:
    """What is honoured, by transformers' names and with their meaning; the defaults do nothing. Lengths are in tokens.

    `eos_token_id` end a text; before `min_length` (prompt included) or, where it is given, `min_new_tokens` they are
    not written. `forced_bos_token_id` comes after a prompt of one token, `forced_eos_token_id` as the last token that
    there is room for. `max_new_tokens` holds in tasks, where lm-eval lets it go before a task's own. `not_honoured` are
    the names and values, as JSON, of what would change greedy text and is not done.
    """

    eos_token_id: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    min_length: int = 0
    min_new_tokens: int | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    max_new_tokens: int | None = None
    not_honoured: tuple[tuple[str, str], ...] = ()

    @property
    def changes_logits(self) -> bool:
        """Whether anything is done to logits before a token is chosen."""
        plain = GenerationSettings(self.eos_token_id, max_new_tokens=self.max_new_tokens)
        return dataclasses.replace(self, not_honoured=()) != plain

    def described(self, tokenizer_end: int | None) -> dict[str, Any]:
        """What of it says more than the tokenizer's end of sequence, by name; empty where nothing does."""
        found = {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != getattr(NONE, field.name)
            and field.name not in ("eos_token_id", "not_honoured")
        }
        if set(self.eos_token_id) - {tokenizer_end}:
            found["eos_token_id"] = sorted(self.eos_token_id)
        if self.not_honoured:
            found["not_honoured"] = {name: json.loads(value) for name, value in self.not_honoured}
        return found

    def lines(self, tokenizer_end: int | None) -> list[str]:
        """The same in words."""
        found = self.described(tokenizer_end)
        passed_over = found.pop("not_honoured", {})
        lines = []
        if found:
            lines.append(f"as the checkpoint's generation settings say: {_listed(found)}")
        if passed_over:
            what = "generation settings of the checkpoint that are not honoured, though they change its text"
            lines.append(f"{what}: {_listed(passed_over)}")
        return lines


MANY = frozenset({"eos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"})
HONOURED = tuple(field.name for field in dataclasses.fields(GenerationSettings) if field.name != "not_honoured")
NONE = GenerationSettings()


def generation_settings(model: Model | Source) -> GenerationSettings:
    """Those of a model's checkpoint; the defaults for one made in memory.

    Raises:
        UserError: a file of its store that is damaged, or holds values that cannot be.
    """
    if model.store is None:
        return NONE
    config = read_json(model.store / "huggingface_config.json", dict[str, Any])
    kept = _kept(model.store, model.manifest)
    if kept is None:
        known = {*NOT_HONOURED, *HONOURED}
        return parse_settings({name: value for name, value in config.items() if name in known}, "config.json")
    if kept.get("eos_token_id") is None:
        kept = {**kept, "eos_token_id": config.get("eos_token_id")}
    return parse_settings(kept, GENERATION_CONFIG)


def parse_settings(values: Mapping[str, Any], where: str) -> GenerationSettings:
    """Of names and values as files and tasks give them. Raises UserError, which names `where`, for what cannot be."""
    given = {name: value for name, value in values.items() if value is not None}
    honoured = checked({name: given.pop(name) for name in [*given] if name in _shape().model_fields}, _shape(), where)
    others = {name: value for name, value in given.items() if name not in HARMLESS and not _does_nothing(name, value)}
    listed = tuple((name, json.dumps(value, sort_keys=True)) for name, value in sorted(others.items()))
    found = {name: value for name, value in honoured.model_dump().items() if value is not None}
    for name in MANY & found.keys():
        found[name] = (found[name],) if isinstance(found[name], int) else tuple(found[name])
    return GenerationSettings(**found, not_honoured=listed)


def _shape() -> Any:
    from pydantic import BaseModel, ConfigDict, Field

    whole = Annotated[int, Field(ge=0)]

    class Settings(BaseModel):
        model_config = ConfigDict(strict=True, allow_inf_nan=False)
        eos_token_id: int | list[int] | None = None
        repetition_penalty: Annotated[float, Field(gt=0)] | None = None
        suppress_tokens: list[int] | None = None
        begin_suppress_tokens: list[int] | None = None
        min_length: whole | None = None
        min_new_tokens: whole | None = None
        forced_bos_token_id: whole | None = None
        forced_eos_token_id: whole | list[whole] | None = None
        max_new_tokens: Annotated[int, Field(ge=1)] | None = None

    return Settings


def _does_nothing(name: str, value: Any) -> bool:
    return not value or value == NOT_HONOURED.get(name)


def _kept(store: Path, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The source's `generation_config.json`; None where it had none, or the store was made before it was kept."""
    if GENERATION_CONFIG not in manifest.get("files", {}):
        return None
    require_same_files(store, manifest)
    return read_json(store / GENERATION_CONFIG, dict[str, Any])


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in values.items())
