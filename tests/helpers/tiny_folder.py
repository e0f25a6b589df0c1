"""A tiny random model with a tokenizer as a Hugging Face folder, made offline."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.helpers.decoders import randomise

NUM_LAYERS = 5
MAX_LENGTH = 64  # positions of the model
BOS = "<s>"

SENTENCES = [
    "She put the kettle back where she had found the lantern, and the lantern where the kettle was.",
    "Which of these is found in the harbour: a ladder, a violin, an orchard or a compass?",
    "Question: Where is the saddle? Answer: The saddle is on the horse that she had found there.",
]


def make_tokenizer(*, adds_bos: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE, which reads any text; with `adds_bos` its template begins texts with the BOS token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=[BOS, "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    if adds_bos:
        bos_id = tokenizer.token_to_id(BOS)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos_id)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token="</s>")


def make_folder(folder: Path, *, adds_bos: bool = False) -> Path:
    """Five layers of random weights that all matter, in float32."""
    tokenizer = make_tokenizer(adds_bos=adds_bos)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        rms_norm_eps=1e-2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    network = LlamaForCausalLM(config).to(torch.float32)
    randomise(network)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
