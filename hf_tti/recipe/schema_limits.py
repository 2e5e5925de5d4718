"""Ranges that transformers' dataclasses do not state themselves."""

_COUNT = {"min": 1}
_SHARE = {"min": 0, "max": 1}
_NOT_NEGATIVE = {"min": 0}
_POSITIVE = {"exclusive_min": 0}
_SEED = {"min": 0, "max": 2**32 - 1}
_BETA = {"min": 0, "exclusive_max": 1}

TRAINING_LIMITS: dict[str, dict] = {
    **dict.fromkeys(
        [
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
        ],
        _COUNT,
    ),
    **dict.fromkeys(
        ["eval_accumulation_steps", "save_total_limit", "torch_empty_cache_steps", "ddp_timeout"],
        _COUNT,
    ),
    **dict.fromkeys(["dataloader_prefetch_factor", "ddp_bucket_cap_mb"], _COUNT),
    **dict.fromkeys(["learning_rate", "warmup_steps", "weight_decay", "max_grad_norm"], _NOT_NEGATIVE),
    **dict.fromkeys(["eval_delay", "dataloader_num_workers", "neftune_noise_alpha"], _NOT_NEGATIVE),
    **dict.fromkeys(["num_train_epochs", "adam_epsilon", "logging_steps", "eval_steps", "save_steps"], _POSITIVE),
    **dict.fromkeys(["seed", "data_seed"], _SEED),
    **dict.fromkeys(["adam_beta1", "adam_beta2"], _BETA),
    "label_smoothing_factor": _SHARE,
    "max_steps": {"min": -1},
    "include_num_input_tokens_seen": {"choices": ["all", "non_padding", "no"]},
}

MODEL_LIMITS: dict[str, dict] = {
    **dict.fromkeys(["vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"], _COUNT),
    **dict.fromkeys(["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"], _COUNT),
    **dict.fromkeys(["num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window"], _COUNT),
    **dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"], _SHARE),
    **dict.fromkeys(["attention_dropout", "hidden_dropout", "classifier_dropout"], _SHARE),
    **dict.fromkeys(["layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps"], _POSITIVE),
    **dict.fromkeys(["initializer_range", "max_window_layers"], _NOT_NEGATIVE),
    **dict.fromkeys(["bos_token_id", "eos_token_id", "pad_token_id"], _NOT_NEGATIVE),
}
