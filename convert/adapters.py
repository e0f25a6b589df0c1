"""LoRA adapters as peft saves them: adapter_config.json and adapter_model.safetensors.

What is more than low-rank updates of linear layers and their biases is refused by name.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.hub import at_revision
from convert.safetensors_files import read_header
from convert.tensors import Tensor, by_name
from convert.torch_files import read_torch_file
from jaxpaint.base.documents import checked, read_bytes, read_json, require_regular, shown, shown_items
from jaxpaint.base.errors import UserError
from jaxpaint.models.fields import switch
from jaxpaint.models.harmless import is_off

CONFIG = "adapter_config.json"
WEIGHTS = (("adapter_model.safetensors", read_header), ("adapter_model.bin", read_torch_file))
LORA = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])(?:\.default)?\.(?P<kind>weight|bias)")
MERGE = "merge it with peft (merge_and_unload), save the model, and convert that"
HANDLED = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "lora_bias", "init_lora_weights"),
    *("target_modules", "base_model_name_or_path", "revision"),
}
# How training went, where its settings lie, and what the tensors themselves tell: which modules, which biases. A linear
# layer is never fan-in-fan-out and GPT-2's always is, whatever is said (peft sets it right, too).
HARMLESS = {
    *("lora_dropout", "task_type", "inference_mode", "auto_mapping", "peft_version", "bias", "fan_in_fan_out"),
    *("layers_to_transform", "layers_pattern", "exclude_modules", "megatron_core", "eva_config", "runtime_config"),
    *("qalora_group_size", "ensure_weight_tying", "base_model_class", "parent_library"),
}
# Other ways to begin change the base model's weights as well.
PLAIN_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Update:
    """What an adapter adds to one module: scale * B A to its weight, scale * bias to its bias. A is [r, in]."""

    a: Tensor
    b: Tensor
    scale: float
    bias: Tensor | None = None


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, its tensors not read yet. `updates` are by module and `biases`, which stand for the base model's,
    by tensor, both as the file names them; `base` is the model that it was trained on, as its training called it;
    `targets` are ends of names of modules that all have updates in every layer."""

    folder: Path
    base: str | None
    revision: str | None
    updates: Mapping[str, Update]
    biases: Mapping[str, Tensor]
    targets: Sequence[str]

    def doubt(self, model: str | Path) -> str | None:
        """What to tell a person who merges it into a model that is called otherwise than the one it was trained on."""
        if self.base is None or _called(self.base) == _called(model):
            return None
        return f"{self.folder} was trained on {self.base}, and is merged into {model}: are their weights the same?"

    def record(self) -> dict[str, Any]:
        """What a store that has it in its weights says of it."""
        return {"name": self.folder.name, "base": self.base, "sha256": content(self.folder)}


def _called(model: str | Path) -> str:
    """A model's own name: of a hub id or a folder the last part."""
    return Path(model).resolve().name.casefold()


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a peft adapter and no model of its own."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def content(folder: Path) -> str:
    """The SHA-256 of an adapter's files."""
    digest = hashlib.sha256()
    for file in (folder / CONFIG, _weights_file(folder)[0]):
        digest.update(hashlib.sha256(read_bytes(file)).digest())
    return digest.hexdigest()


def base_of(folder: Path) -> tuple[str, str | None]:
    """The model that an adapter was trained on, and its revision. Raises UserError where it does not say."""
    config = read_json(folder / CONFIG, dict[str, Any])
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise UserError(
            f"{folder} is an adapter whose {CONFIG} names no base model; convert it with the model that it belongs to: "
            f"jaxpaint convert MODEL STORE --adapter {folder}"
        )
    return base, revision if isinstance(revision, str) else None


def parted(
    model: str | Path, revision: str | None = None, adapter: str | Path | None = None
) -> tuple[str | Path, str | None, Path | None]:
    """A model as one asks for it as the base model, its revision, and the adapter's folder: `owner/name@revision` taken
    apart, and an adapter's folder in place of a model as what it names.

    Raises UserError as `base_of`, and for two adapters.
    """
    path = Path(model).expanduser()
    if not path.exists():
        model, revision = at_revision(str(model), revision)
    if adapter is not None:
        if is_adapter(path):
            raise UserError(f"{model} is an adapter itself; --adapter goes with the model that it belongs to")
        return model, revision, Path(adapter).expanduser()
    if not is_adapter(path):
        return model, revision, None
    if revision is not None:
        raise UserError(f"revision {revision!r} belongs to a hub id, and {model} is a folder; leave it out")
    return *base_of(path), path


def read_adapter(folder: str | Path) -> Adapter:
    """A peft adapter's config and the names and shapes of its tensors.

    Raises:
        UserError: no adapter, a damaged one, or one that does more than plain LoRA.
    """
    folder = Path(folder).expanduser()
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder} is not a peft adapter: it has no {CONFIG}; give the folder that save_pretrained made"
        )
    config = read_json(folder / CONFIG, dict[str, Any])
    _require_plain(folder, config)
    file, read = _weights_file(folder)
    require_regular(file)
    parts: dict[str, dict[str, Tensor]] = {}
    biases: dict[str, Tensor] = {}
    for name, tensor in by_name(read(file), str(folder)).items():
        if match := LORA.fullmatch(name):
            parts.setdefault(match["module"], {})[f"{match['part']}.{match['kind']}"] = tensor
        elif name.endswith(".bias"):
            biases[name] = tensor
        else:
            raise UserError(
                f"{file} holds {shown(name)} {list(tensor.shape)}, which is no part of plain LoRA on linear layers; "
                + MERGE
            )
        tensor.require_floats()
    if not parts:
        raise UserError(f"{file} holds no lora_A and lora_B: is it whole?")
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    return Adapter(
        folder,
        base if isinstance(base, str) and base else None,
        revision if isinstance(revision, str) else None,
        {module: _update(file, module, found, config) for module, found in parts.items()},
        biases,
        _targets(config),
    )


def _require_plain(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError for what is not LoRA, or more than it."""
    where, kind = folder / CONFIG, config.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{where} has peft_type={shown(kind)}; only LORA is merged here; {MERGE}, if it can be merged")
    beginning = config.get("init_lora_weights")
    if not any(beginning is plain or (isinstance(plain, str) and beginning == plain) for plain in PLAIN_BEGINNINGS):
        raise UserError(f"{where} has init_lora_weights={shown(beginning)}, which changes the base model, too; {MERGE}")
    more = {
        name: value
        for name, value in config.items()
        if name not in HANDLED and name not in HARMLESS and not is_off(value)
    }
    if more:
        raise UserError(f"{where} sets {shown_items(sorted(more.items()))}, which is not plain LoRA; {MERGE}")


def _targets(config: Mapping[str, Any]) -> list[str]:
    """Ends of names of modules that are targeted in every layer; none where they are patterns, or layers are chosen."""
    targets = config.get("target_modules")
    if any(config.get(name) for name in ("layers_to_transform", "layers_pattern", "exclude_modules")):
        return []
    return checked(targets, list[str], f"target_modules in {CONFIG}") if isinstance(targets, list) else []


def _weights_file(folder: Path) -> tuple[Path, Any]:
    for name, read in WEIGHTS:
        if (folder / name).exists():
            return folder / name, read
    raise UserError(f"{folder} has {CONFIG} and no {WEIGHTS[0][0]}; copy that, too")


def _update(file: Path, module: str, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> Update:
    lacking = [f"lora_{part}" for part in "AB" if f"{part}.weight" not in parts]
    if lacking:
        raise UserError(f"{file} has no {lacking[0]} for {module}, and its other half; it is damaged, save it again")
    a, b, bias = parts["A.weight"], parts["B.weight"], parts.get("B.bias")
    rank = _of_module(config, "rank_pattern", "r", module, int)
    fits = len(a.shape) == len(b.shape) == 2 and a.shape[0] == b.shape[1] == rank
    if not fits or (bias is not None and bias.shape != b.shape[:1]) or "A.bias" in parts:
        told = f", its bias {list(bias.shape)}" if bias is not None else ""
        raise UserError(
            f"{module} in {file} has lora_A {list(a.shape)} and lora_B {list(b.shape)}{told}; expected [r, in] and "
            f"[out, r] with r={rank}, by {CONFIG}"
        )
    if (bias is not None) != switch(config, "lora_bias"):
        raise UserError(f"{CONFIG} has lora_bias={shown(config.get('lora_bias'))}, and {file} is otherwise at {module}")
    alpha = _of_module(config, "alpha_pattern", "lora_alpha", module, float)
    return Update(a, b, alpha / (math.sqrt(rank) if switch(config, "use_rslora") else rank), bias)


def _of_module(config: Mapping[str, Any], patterns: str, name: str, module: str, kind: type) -> Any:
    """A number that may be another one in some modules, chosen as `peft.utils.other.get_pattern_key` does."""
    own = checked(config.get(patterns) or {}, dict[str, Any], f"{patterns} in {CONFIG}")
    inside = module.removeprefix("base_model.model.")
    try:
        chosen = next((value for key, value in own.items() if re.match(rf"(.*\.)?({key})$", inside)), config.get(name))
    except re.error as error:
        raise UserError(f"{patterns} in {CONFIG} is no pattern of names: {error}") from error
    fits = isinstance(chosen, int | float) and not isinstance(chosen, bool) and math.isfinite(chosen)
    if not fits or chosen != kind(chosen) or (name == "r" and chosen < 1):
        raise UserError(f"{CONFIG} has {name}={shown(chosen)} for {module}; expected a number")
    return kind(chosen)
