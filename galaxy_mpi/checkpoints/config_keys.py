"""Keys of a ``config.json`` that change a model's maths and are not supported.

A key whose value is not neutral is rejected by name, because ignoring it would silently give wrong
tokens. Unknown keys are listed once.

References
----------
.. [1] transformers, ``configuration_*.py`` of the models that have each key.
"""

from galaxy_mpi.errors import CheckpointError
from galaxy_mpi.fields import Fields, shown

__all__ = ["check_keys", "unknown_keys"]

_NEUTRAL: dict[str, tuple[object, ...]] = {
    # Activation of the feed-forward part.
    "hidden_act": ("silu", "swish"),
    "hidden_activation": ("silu", "swish"),
    "activation_function": ("silu", "swish"),
    # Biases; those of q, k and v of Qwen2 belong to its architecture.
    "attention_bias": (False,),
    "attention_out_bias": (False,),
    "mlp_bias": (False,),
    "use_bias": (False,),
    "bias": (False,),
    "add_bias_linear": (False,),
    "lm_head_bias": (False,),
    # Scales and caps.
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "clip_qkv": (),
    "query_pre_attn_scalar": (),
    "attention_multiplier": (),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "logits_scaling": (1,),
    "logit_scale": (1,),
    "scale_emb": (1,),
    "scale_depth": (),
    "dim_model_base": (),
    "scale_attn_by_inverse_layer_idx": (False,),
    "attn_temperature_tuning": (False, 0),
    "normalize_embedding": (False,),
    # Rotary embedding outside rope_parameters.
    "partial_rotary_factor": (1,),
    "rotary_pct": (1,),
    "rope_interleaved": (False,),
    "rope_local_base_freq": (),
    "global_rope_theta": (),
    "local_rope_theta": (),
    "no_rope_layers": ([],),
    "no_rope_layer_interval": (),
    "alibi": (False,),
    "position_embedding_type": ("rope", "rotary"),
    # Another attention or another layer.
    "attention_chunk_size": (),
    "cross_attention_layers": ([],),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "parallel_attn": (False,),
    "use_parallel_residual": (False,),
    "num_kv_shared_layers": (0,),
    "kv_lora_rank": (),
    "q_lora_rank": (),
    "v_head_dim": (),
    "attn_output_gate": (False,),
    "use_qk_norm": (False,),
    "qk_layernorm": (False,),
    "use_mrope": (False,),
    "pruned_heads": ({}, []),
    "head_wise_attn_output_gate": (False,),
    "elementwise_attn_output_gate": (False,),
    # Experts.
    "num_experts": (0, 1),
    "num_local_experts": (0, 1),
    "n_routed_experts": (0,),
    "moe_intermediate_size": (),
    # Weights in a format of their own.
    "quantization_config": (),
    "compression_config": (),
}
"""Neutral values of each key, besides null."""

_READ = """
architectures eos_token_id head_dim hidden_size intermediate_size layer_types
max_position_embeddings num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps
rope_parameters rope_scaling rope_theta sliding_window tie_word_embeddings use_sliding_window
vocab_size"""

_NO_MATHS = """
_attn_implementation _flash_attn_2_enabled _from_model_config _name_or_path attention_dropout
attn_implementation auto_map bad_words_ids begin_suppress_tokens bos_token_id
chunk_size_feed_forward classifier_dropout cross_attention_hidden_size decoder_start_token_id
diversity_penalty do_sample dtype early_stopping embd_pdrop encoder_no_repeat_ngram_size
exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
hidden_dropout id2label initializer_range is_decoder is_llama_config label2id length_penalty
max_length max_window_layers min_length model_type no_repeat_ngram_size num_beam_groups
num_beams num_return_sequences output_attentions output_hidden_states output_scores
pad_token_id prefix pretraining_tp problem_type remove_invalid_values repetition_penalty
resid_pdrop return_dict return_dict_in_generate sep_token_id suppress_tokens
task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p
torch_dtype torchscript transformers.js_config transformers_version typical_p unk_token_id
unsloth_fixed unsloth_version use_bfloat16 use_cache"""
"""Of training, of generation by transformers, or about the file itself."""


def check_keys(fields: Fields) -> None:
    """Raise if a key requires unsupported maths.

    Raises
    ------
    CheckpointError
        Naming the key and its supported values.
    """
    for name in fields.names:
        if name in _NEUTRAL and not _is_neutral(fields.raw(name), _NEUTRAL[name]):
            known = " or ".join(shown(value) for value in _NEUTRAL[name]) or "left out"
            raise CheckpointError(
                f"{fields.where}: {name} is {shown(fields.raw(name))}, which changes the maths and "
                f"is not supported (supported: {known}); choose another model"
            )


def unknown_keys(fields: Fields) -> list[str]:
    """Return the unknown keys."""
    known = {*_READ.split(), *_NO_MATHS.split(), *_NEUTRAL}
    return sorted(name for name in fields.names if name not in known)


def _is_neutral(value: object, neutral: tuple[object, ...]) -> bool:
    return any(value == known for known in neutral)
