"""Rotary positions of a GGUF file, by the names that config.json has for them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convert.gguf_files import GgufFile
from convert.gguf_tensors import values
from jaxpaint.base.documents import shown
from jaxpaint.base.errors import UserError

FACTORS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
TENSORS = (FACTORS, LONG, SHORT)
# What Llama 3.1 and later say, the factor aside; a GGUF file has what comes of it alone.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# A scaling's numbers, by the names that config.json has for them.
YARN = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}
LONGROPE = {"attention_factor": "attn_factor"}


def rotary(file: GgufFile, head_dim: int) -> tuple[dict[str, Any], set[str]]:
    """What config.json says of rotary positions, and the keys (without the architecture's name) that say it.

    Raises:
        UserError: a scaling that is not known, or of another kind than its tensors.
    """
    name = file.architecture
    theta = file.value(f"{name}.rope.freq_base")
    turning = file.count(f"{name}.rope.dimension_count", head_dim)
    config: dict[str, Any] = {"rope_theta": 10000.0 if theta is None else theta}
    if turning != head_dim:
        config["partial_rotary_factor"] = turning / max(head_dim, 1)
    scaling, read = _scaling(file)
    if FACTORS in file.tensors:
        if scaling:
            raise UserError(f"{file.file} has {FACTORS} beside a scaling of rotary positions {shown(scaling)}")
        scaling = _llama3(file, float(config["rope_theta"]), turning)
    if scaling:
        config["rope_scaling"] = scaling
        if scaling["rope_type"] == "longrope":  # beside the others Phi-3 reads it, and nowhere else
            config["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    return config, {f"rope.scaling.{each}" for each in read}


def _scaling(file: GgufFile) -> tuple[dict[str, Any], set[str]]:
    prefix = f"{file.architecture}.rope.scaling"
    said = {key.removeprefix(f"{prefix}."): file.value(key) for key in file.fields if key.startswith(f"{prefix}.")}
    kind, original = said.get("type", "linear"), said.get("original_context_length")
    if kind == "longrope" or LONG in file.tensors or SHORT in file.tensors:
        return _longrope(file, said), {"type", "factor", "finetuned", "original_context_length", *LONGROPE.values()}
    if kind == "yarn":
        more = {attribute: said[key] for attribute, key in YARN.items() if key in said}
        scaling = {"rope_type": "yarn", "factor": said.get("factor"), **more}
        if original is not None:
            scaling["original_max_position_embeddings"] = original
        return scaling, {"type", "factor", "finetuned", "original_context_length", *YARN.values()}
    if kind not in ("none", "linear"):
        raise UserError(f"{file.file}: {prefix}.type is {shown(kind)}, which jaxpaint does not know")
    read = {"type", "factor", "finetuned", "original_context_length"}
    if kind == "none" or said.get("factor") in (None, 0, 1):
        return {}, read
    return {"rope_type": "linear", "factor": said["factor"]}, read


def _longrope(file: GgufFile, said: dict[str, Any]) -> dict[str, Any]:
    if absent := [each for each in (LONG, SHORT) if each not in file.tensors]:
        raise UserError(f"{file.file} has rotary positions of the kind 'longrope' and lacks {', '.join(absent)}")
    factors = {attribute: values(file.tensors[each]) for attribute, each in (("long", LONG), ("short", SHORT))}
    scaling: dict[str, Any] = {f"{attribute}_factor": each.tolist() for attribute, each in factors.items()}
    scaling |= {attribute: said[key] for attribute, key in LONGROPE.items() if key in said}
    original = said.get("original_context_length")
    return {"rope_type": "longrope", **scaling, "original_max_position_embeddings": original}


def _llama3(file: GgufFile, theta: float, turning: int) -> dict[str, Any]:
    """Of what frequencies are divided by: transformers' `_compute_llama3_parameters` the other way round."""
    found = values(file.tensors[FACTORS])
    if np.array_equal(found, np.ones(len(found))):
        return {}
    factor = float(found.max())
    wavelengths = 2 * math.pi * theta ** (np.arange(0, turning, 2) / turning)
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    smooth = np.clip((LLAMA3["original_max_position_embeddings"] / wavelengths - low) / (high - low), 0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-4):
        raise UserError(
            f"{file.file} has {FACTORS} that are not Llama 3.1's ({shown(LLAMA3)}), which jaxpaint does not handle"
        )
    return {"rope_type": "llama3", "factor": factor, **LLAMA3}
