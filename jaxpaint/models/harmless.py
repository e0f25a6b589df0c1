"""Attributes of published `config.json` files that leave what a frozen model computes as it is, each with the reason.

transformers reads none of them for the families here, or what it reads of them concerns training, generation, labels,
kernels or shapes of outputs. What is not listed is refused by name (`jaxpaint.models.fields.refuse_unhandled`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_REASONS = {
    "says what the model is called, who wrote it, with which version of what": """
        _name_or_path name_or_path _model_name_or_path _commit_hash architectures model_type transformers_version name
        language license unsloth_version unsloth_fixed is_llama_config sentence_transformers transformers.js_config
        base_model_name_or_path layer_plan
    """,
    "points at code beside the weights, which is never run: the model_type says what is computed": """
        auto_map custom_pipelines trust_remote_code
    """,
    "the dtype that weights were saved or trained in; the weights have their own": """
        torch_dtype dtype use_bfloat16 bf16 fp16 fp32
    """,
    "concerns tokens and texts: tokenizer and generation read them": """
        bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id mask_token_id bos_token eos_token
        pad_token unk_token tokenizer_class processor_class chat_template prefix
    """,
    "a length that texts were cut to; max_position_embeddings bounds them here": """
        model_max_length tokenizer_model_max_length max_sequence_length max_seq_length max_seq_len seq_length seq_len
        sequence_length n_ctx
    """,
    "drops or adds noise in training alone": """
        attention_dropout attention_dropout_prob attention_probs_dropout_prob attn_dropout attn_pdrop resid_dropout
        resid_pdrop residual_dropout embd_dropout embd_pdrop emb_dropout embedding_dropout hidden_dropout
        hidden_dropout_prob dropout layerdrop mlp_dropout ffn_dropout classifier_dropout classifier_dropout_prob
        summary_first_dropout neftune_noise_alpha
    """,
    "how weights were begun with, before they were trained": """
        initializer_range initializer_factor initializer init_std init_method init_device
    """,
    "how a loss was computed, or training went": """
        loss_type label_smoothing ignore_index mlm_probability gradient_checkpointing use_gradient_checkpointing
        gradient_checkpointing_kwargs tf_legacy_loss is_training router_aux_loss_coef router_jitter_noise
    """,
    "labels and heads of a task, which are no part of what is read": """
        id2label label2id num_labels _num_labels problem_type finetuning_task task_specific_params classifier_activation
        sbert_ce_default_activation_function summary_activation summary_type summary_use_proj summary_proj_to_labels
    """,
    "left over of the first code of BERT, whose pooler is always of the first token": """
        directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
    """,
    "which kernels compute the same attention, or products in parts": """
        _attn_implementation _attn_implementation_autoset _attn_implementation_internal attn_implementation
        _experts_implementation _experts_implementation_internal _flash_attn_2_enabled use_flash_attn
        use_flash_attention use_flash_attention_2 flash_attention use_sdpa use_xformers use_memory_efficient_attention
        unpad_inputs pretraining_tp chunk_size_feed_forward
    """,
    "what a call returns beside the result, keeps, or is exported as": """
        output_attentions output_hidden_states output_past output_scores return_dict use_cache use_mems
        output_router_logits torchscript torch_compile onnx_export onnx use_onnx_export
    """,
    "a setting of generation (transformers' GenerationConfig), which scores know nothing of": """
        max_length max_new_tokens min_length min_new_tokens early_stopping max_time stop_strings do_sample num_beams
        use_mtp cache_implementation cache_config max_cache_len temperature top_k top_p min_p top_h typical_p
        epsilon_cutoff eta_cutoff repetition_penalty encoder_repetition_penalty length_penalty no_repeat_ngram_size
        bad_words_ids renormalize_logits forced_bos_token_id forced_eos_token_id forced_decoder_ids
        remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens sequence_bias
        token_healing guidance_scale watermarking_config num_return_sequences output_logits return_dict_in_generate
        encoder_no_repeat_ngram_size decoder_start_token_id is_assistant num_assistant_tokens
        num_assistant_tokens_schedule assistant_confidence_threshold prompt_lookup_num_tokens max_matching_ngram_size
        assistant_early_exit assistant_lookbehind target_lookbehind assistant_ensemble_weight speculation_type
        compile_config disable_compile continuous_batching_config low_memory penalty_alpha dola_layers
        diversity_penalty num_beam_groups constraints force_words_ids prefill_chunk_size generation_config
        generation_kwargs _from_model_config
    """,
}
HARMLESS = {name: reason for reason, names in _REASONS.items() for name in names.split()}


def _decoder(value: Any, raw: Mapping[str, Any]) -> bool:
    return raw["model_type"] != "bert"


def _quantization(value: Any, raw: Mapping[str, Any]) -> bool:
    flags = [f"{prefix}load_in_{bits}bit" for bits in (4, 8) for prefix in ("", "_")]
    return value.get("quant_method") == "bitsandbytes" and not any(value.get(flag) for flag in flags)


def _head_size(value: Any, raw: Mapping[str, Any]) -> bool:
    return value * raw["num_attention_heads"] == raw["hidden_size"]


def _one_of(*values: Any) -> Callable[[Any, Mapping[str, Any]], bool]:
    return lambda value, raw: value in values


def _equal_to(name: str) -> Callable[[Any, Mapping[str, Any]], bool]:
    return lambda value, raw: value == raw.get(name)


# Those that change nothing at these values, or in these families: whether it is so, and why.
HARMLESS_WHEN: dict[str, tuple[Callable[[Any, Mapping[str, Any]], bool], str]] = {
    "is_decoder": (_decoder, "a decoder is one"),
    "is_causal": (_decoder, "a decoder is causal"),
    "type_vocab_size": (_decoder, "left over of a test's sizes: decoders have no token types"),
    "max_window_layers": (_decoder, "counts layers without a window, which those families that know it read"),
    "layer_types": (
        lambda value, raw: value == ["full_attention"] * raw["num_hidden_layers"],
        "every layer attends in full, as the family does",
    ),
    "position_embedding_type": (
        lambda value, raw: _decoder(value, raw) and value in ("absolute", "rope", "rotary"),
        "a default of older versions, which families with rotary positions do not read",
    ),
    "rope_type": (_one_of("default"), "the default"),
    "partial_rotary_factor": (_one_of(1), "all of a head turns, as the family does"),
    "rotary_pct": (_one_of(1), "all of a head turns, as the family does"),
    "use_sliding_window": (
        lambda value, raw: raw["model_type"] == "mistral",
        "not read: sliding_window alone tells Mistral's window",
    ),
    "attention_bias": (
        lambda value, raw: raw["model_type"] == "qwen2" and value is True,
        "not read: Qwen2 has its biases whatever it says",
    ),
    "sliding_window_size": (_equal_to("sliding_window"), "another name of the window of Gemma 2, which is read"),
    "_sliding_window_pattern": (
        lambda value, raw: value == 6 or bool(raw.get("layer_types")),
        "not read: layer_types or sliding_window_pattern tell Gemma 3's kinds of layers",
    ),
    "head_dim": (_head_size, "what the hidden size and the heads imply"),
    "num_key_value_heads": (_equal_to("num_attention_heads"), "as many as query heads, as the family has"),
    "embedding_size": (_equal_to("hidden_size"), "as wide as the layers, as the family's embedding is"),
    "full_attn_mod": (_one_of(1), "every layer attends alike, in Phi-4's own code too"),
    "interpolate_factor": (_one_of(1), "positions are as they are, in Phi-4's own code too"),
    "quantization_config": (_quantization, "says that nothing is quantised"),
}


def is_off(value: Any) -> bool:
    """Null, false, zero, empty, or an object of nothing else: an attribute so set changes nothing, whatever it is."""
    return not value or (isinstance(value, Mapping) and all(map(is_off, value.values())))


def is_harmless(name: str, value: Any, raw: Mapping[str, Any]) -> bool:
    """Whether an attribute of the config.json `raw` leaves the result as it is."""
    if name in HARMLESS or is_off(value):
        return True
    try:
        return name in HARMLESS_WHEN and HARMLESS_WHEN[name][0](value, raw)
    except (TypeError, AttributeError):  # a value of another kind than the attribute's, which is nothing that is known
        return False
