"""Checkpoints that were saved quantised (`quantization_config` in config.json), their weights as floats again.

Weights are those of the library's own dequantisation; activations that some quantise as they run stay floats here.
Kinds that are not known, and settings of those that are, are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from convert.packed import from_awq, from_gptq
from convert.scaled import from_compressed, from_fp8
from convert.tensors import Tensor
from jaxpaint.base.documents import shown, shown_items
from jaxpaint.base.errors import UserError
from jaxpaint.models.harmless import is_harmless, is_off

NAME = "quantization_config"
Read = Callable[[Mapping[str, Any], Mapping[str, Tensor], np.dtype], dict[str, Tensor]]
# By quant_method: how tensors are read, the settings that reading minds, and those that change nothing for it: which
# modules, how they were found, which kernels ran.
METHODS: dict[str, tuple[Read, str, str]] = {
    "fp8": (
        from_fp8,
        "weight_block_size fmt scale_fmt",
        "activation_scheme modules_to_not_convert ignored_layers modules_to_convert expert_dtype",
    ),
    "fbgemm_fp8": (from_fp8, "", "activation_scale_ub modules_to_not_convert"),
    "compressed-tensors": (
        from_compressed,
        "config_groups format",
        "quantization_status global_compression_ratio ignore version",
    ),
    "gptq": (
        from_gptq,
        "bits group_size checkpoint_format format",
        """desc_act sym true_sequential static_groups damp_percent damp_auto_increment act_group_aware mse dataset
        tokenizer batch_size block_name_to_quantize module_name_preceding_first_block modules_in_block_to_quantize
        cache_block_outputs model_seqlen max_input_length pad_token_id use_cuda_fp16 use_exllama disable_exllama
        exllama_config backend meta pack_dtype lm_head model_name_or_path model_file_base_name quantizer
        pack_impl offload_to_disk""",
    ),
    "awq": (
        from_awq,
        "bits group_size version format",
        """zero_point modules_to_not_convert backend do_fuse fuse_max_seq_len modules_to_fuse exllama_config
        desc_act sym true_sequential damp_percent act_group_aware dataset tokenizer batch_size block_name_to_quantize
        module_name_preceding_first_block modules_in_block_to_quantize cache_block_outputs model_seqlen
        max_input_length pad_token_id meta""",
    ),
}
# What to do about those that are not read, where transformers itself can undo them.
WITH_TRANSFORMERS = {
    "bitsandbytes": "load it with transformers on a machine that has bitsandbytes, and model.dequantize()",
    "hqq": "load it with transformers and hqq, and model.dequantize()",
    "mxfp4": "load it with transformers and quantization_config=Mxfp4Config(dequantize=True)",
}


def floats_config(config: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """A config.json without its quantization. Raises UserError for one that cannot be undone."""
    _method(config, source)
    return {name: value for name, value in config.items() if name != NAME or is_harmless(name, value, config)}


def floats(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str
) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """A checkpoint's config and tensors as if it had never been quantised, each read from what there is of it.

    The dtype that a store has of them is the config's.

    Raises:
        UserError: a kind of quantization that cannot be undone, or tensors that are not of the kind that it says.
    """
    read = _method(config, source)
    if read is None:
        return config, tensors
    return floats_config(config, source), read(config[NAME], tensors, _kept(config))


def _method(config: Mapping[str, Any], source: str) -> Read | None:
    settings = config.get(NAME)
    if is_harmless(NAME, settings, config):
        return None
    if not isinstance(settings, Mapping):
        raise UserError(f"{source} has {NAME}={shown(settings)} in its config.json, which is no object of settings")
    method = settings.get("quant_method")
    if not isinstance(method, str) or method not in METHODS:
        undone = WITH_TRANSFORMERS.get(str(method))
        first = f"{undone}, save_pretrained, and convert that; or " if undone else ""
        raise UserError(
            f"{source} is quantised by {shown(method)} ({NAME} in config.json), which is not undone here (but "
            f"{', '.join(METHODS)} are): {first}convert the checkpoint that it was made from"
        )
    read, minded, harmless = METHODS[method]
    known = {"quant_method", *minded.split(), *harmless.split()}
    more = {name: value for name, value in settings.items() if name not in known and not is_off(value)}
    if more:
        raise UserError(
            f"{source} is quantised by {method} with {shown_items(sorted(more.items()))}, which is not handled and may "
            "change its weights; convert the checkpoint that it was made from"
        )
    return read


def _kept(config: Mapping[str, Any]) -> np.dtype:
    import ml_dtypes

    name = config.get("dtype") or config.get("torch_dtype")
    return np.dtype(name) if name in ("float16", "float32") else np.dtype(ml_dtypes.bfloat16)
