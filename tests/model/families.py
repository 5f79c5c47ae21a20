"""Models of today in our recipe's keys, beside the same made by `transformers`."""

from typing import Any

import torch
from transformers import AutoModel, LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from prealign.config.model import ModelConfig
from prealign.model.gpt import GPT, Recomputation

VOCABULARY = 97
_TODAY = {"positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "bias": False, "ffn_size": 56}
LLAMA3_SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_context": 64}
"""Of wavelengths of 6, 17, 44 and 118 tokens one stays, two are in between, and one is divided."""
YARN = {"kind": "yarn", "factor": 4.0, "beta_fast": 8.0, "original_context": 64}
"""Of the same wavelengths the first stays, two are in between, and the last is divided."""
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": _TODAY | {"kv_heads": 2},
    "llama, one key-value head": _TODAY | {"kv_heads": 1, "rotary_base": 500_000.0},
    "llama, linear scaling": _TODAY | {"kv_heads": 2, "rotary_scaling": {"kind": "linear", "factor": 3.0}},
    "llama, 3.1": _TODAY | {"kv_heads": 2, "rotary_base": 50.0, "rotary_scaling": LLAMA3_SCALING},
    "qwen2, yarn": _TODAY
    | {"kv_heads": 2, "attention_bias": True, "norm_eps": 1e-6, "rotary_base": 50.0, "rotary_scaling": YARN},
    "qwen2": _TODAY | {"kv_heads": 2, "attention_bias": True, "norm_eps": 1e-6},
    "qwen3": _TODAY | {"kv_heads": 2, "head_size": 10, "qk_norm": True, "norm_eps": 1e-6},
}


def config_of(family: str, **options: Any) -> ModelConfig:
    return ModelConfig(**{"layers": 2, "hidden_size": 32, "heads": 4, "context": 24} | FAMILIES[family] | options)


def decoder_of(family: str, **options: Any) -> GPT:
    """Random weights, norms and biases included."""
    torch.manual_seed(0)
    model = GPT(config_of(family, **options), VOCABULARY, Recomputation(), words_after_norm=True)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if name.endswith("norm.weight") else 0.0, 0.2)
    return model


def stock_config(family: str, config: ModelConfig, vocab_size: int) -> PreTrainedConfig:
    """The configuration of `transformers` for one of ours."""
    kinds = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
    return kinds[family.partition(",")[0]](
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.resolved_ffn_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.resolved_kv_heads,
        head_dim=config.resolved_head_size,
        rms_norm_eps=config.norm_eps,
        rope_parameters=rope_parameters(config),
        max_position_embeddings=config.context,
        tie_word_embeddings=False,
    )


def rope_parameters(config: ModelConfig) -> dict[str, Any]:
    """In the words of `transformers`."""
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rotary_base}
    scaling = config.rotary_scaling
    if scaling is not None:
        found |= {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            found |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
            found["original_max_position_embeddings"] = scaling.original_context
        if scaling.kind == "yarn":
            found |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
            found["original_max_position_embeddings"] = scaling.original_context
    return found


def stock_model(family: str, model: GPT) -> PreTrainedModel:
    """The decoder that `transformers` makes of the same weights."""
    stock = AutoModel.from_config(stock_config(family, model.config, VOCABULARY))
    weights = {"embed_tokens.weight": model.embedding.tokens.weight, "norm.weight": model.norm.weight}
    for number, block in enumerate(model.blocks):
        attention, ours = block.attention, f"layers.{number}."
        for kind_of in ("weight", "bias"):
            q, kv = getattr(attention.q, kind_of), getattr(attention.kv, kind_of)
            if q is not None:
                k, v = kv.chunk(2)
                weights |= {f"{ours}self_attn.{name}_proj.{kind_of}": part for name, part in zip("qkv", (q, k, v))}
        weights[ours + "self_attn.o_proj.weight"] = attention.out.weight
        weights |= {f"{ours}mlp.{name}_proj.weight": getattr(block.mlp, name).weight for name in ("gate", "up", "down")}
        weights[ours + "input_layernorm.weight"] = block.attention_norm.weight
        weights[ours + "post_attention_layernorm.weight"] = block.mlp_norm.weight
        if attention.qk_norm:
            weights |= {
                f"{ours}self_attn.{name}_norm.weight": getattr(attention, f"{name}_norm").weight for name in "qk"
            }
    stock.load_state_dict(weights)  # strict: nothing is missing, nothing left over
    return stock.eval()
