"""The weight names of BERT, in both generations: `gamma` and `beta` of the first are `weight` and `bias` since."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from jaxpaint.models.bert_config import BertConfig
from jaxpaint.models.family import Names, Weight

EMBEDDING, HEAD = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
LAYER = "bert.encoder.layer.{layer}"
MODULES = {
    "embed/word": "bert.embeddings.word_embeddings",
    "embed/position": "bert.embeddings.position_embeddings",
    "embed/token_type": "bert.embeddings.token_type_embeddings",
    "embed/norm": "bert.embeddings.LayerNorm",
    "blocks/attention/query": f"{LAYER}.attention.self.query",
    "blocks/attention/key": f"{LAYER}.attention.self.key",
    "blocks/attention/value": f"{LAYER}.attention.self.value",
    "blocks/attention/output": f"{LAYER}.attention.output.dense",
    "blocks/attention_norm": f"{LAYER}.attention.output.LayerNorm",
    "blocks/mlp/intermediate": f"{LAYER}.intermediate.dense",
    "blocks/mlp/output": f"{LAYER}.output.dense",
    "blocks/mlp_norm": f"{LAYER}.output.LayerNorm",
    "pooler": "bert.pooler.dense",
    "masked_lm/transform": "cls.predictions.transform.dense",
    "masked_lm/norm": "cls.predictions.transform.LayerNorm",
    "masked_lm": "cls.predictions",
}


def weight(path: str) -> Weight:
    """The entry of our path: `pooler/kernel` is `bert.pooler.dense.weight`."""
    module, leaf = path.rsplit("/", 1)
    return Weight(path, f"{MODULES[module]}.{'bias' if leaf == 'bias' else 'weight'}", transposed=leaf == "kernel")


def canonical(name: str) -> str:
    """A checkpoint's name as `BertForMaskedLM` has it today: an encoder alone is saved without `bert.`."""
    if name.endswith(("LayerNorm.gamma", "LayerNorm.beta")):
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return name if name.startswith(("bert.", "cls.")) else f"bert.{name}"


def adapt(config: BertConfig, names: Collection[str]) -> BertConfig:
    """The configuration with the heads whose tensors are there."""
    return dataclasses.replace(
        config,
        has_pooler=any(name.startswith("bert.pooler.") for name in names),
        has_masked_lm_head=any(name.startswith("cls.predictions.") for name in names),
    )


# Beside weights: positions counted up, the head for the next sentence, which nothing here uses, and the masked-LM
# head's bias a second time.
BUFFERS = ("embeddings.position_ids", "cls.seq_relationship.weight", "cls.seq_relationship.bias")
NAMES = Names(weight, EMBEDDING, HEAD, (*BUFFERS, "cls.predictions.decoder.bias"), canonical, adapt)
