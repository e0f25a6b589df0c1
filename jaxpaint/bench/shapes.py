"""The shapes of well-known models, by name: the `config.json` that a benchmark needs, with no download."""

from __future__ import annotations

from typing import Any

from jaxpaint.base.errors import UserError
from jaxpaint.models.family import Config


def _llama(hidden: int, inner: int, layers: int, heads: int, key_value_heads: int, **others: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        **others,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "llama2-7b": _llama(4096, 11008, 32, 32, 32),
    "llama2-13b": _llama(5120, 13824, 40, 40, 40),
    "llama2-70b": _llama(8192, 28672, 80, 64, 8),
    "llama2-small": _llama(512, 1376, 8, 8, 8),
    "mistral-7b": _llama(
        *(4096, 14336, 32, 32, 8), model_type="mistral", max_position_embeddings=32768, sliding_window=4096
    ),
    "qwen3-8b": _llama(
        *(4096, 12288, 36, 32, 8), model_type="qwen3", vocab_size=151936, head_dim=128, max_position_embeddings=40960
    ),
    "olmo2-7b": _llama(4096, 11008, 32, 32, 32, model_type="olmo2", vocab_size=100352),
    "phi3-mini": _llama(3072, 8192, 32, 32, 32, model_type="phi3", vocab_size=32064, sliding_window=2047),
    "stablelm-2-1.6b": {
        "model_type": "stablelm",
        "vocab_size": 100352,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "use_qkv_bias": True,
    },
    "pythia-6.9b": {
        "model_type": "gpt_neox",
        "vocab_size": 50432,
        "hidden_size": 4096,
        "intermediate_size": 16384,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rotary_pct": 0.25,
    },
    "bert-large": {
        "model_type": "bert",
        "vocab_size": 30522,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
    },
    "modernbert-base": {
        "model_type": "modernbert",
        "vocab_size": 50368,
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "max_position_embeddings": 8192,
    },
}


def config_of(shape: str) -> Config:
    """The configuration of a shape. Raises UserError for a name that is not known."""
    from jaxpaint.models import from_huggingface

    if shape not in SHAPES:
        raise UserError(f"shape {shape!r} is not one of {', '.join(SHAPES)}")
    return from_huggingface(SHAPES[shape])
