"""Which stock architecture of Hugging Face `transformers` a model is, and what its weights are called there.

GPT-2 keeps linear layers as ``[in, out]``, the others as ``[out, in]``, as torch and we do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from prealign.config.model import ModelConfig
from prealign.errors import UserError

Tensors = dict[str, torch.Tensor]

_CARRIED_OVER = {
    "layers",
    "hidden_size",
    "heads",
    "kv_heads",
    "head_size",
    "context",
    "ffn_multiple",
    "ffn_size",
    "rotary_base",
    "rotary_scaling",
    "norm_eps",
    "tied_embeddings",
    "vocab_multiple",
    "init",
    "init_std",
    "new_rows",
    "reset_at_document",
    "attention",
}
"""Settings that every architecture has, or that do not bear on what a trained model computes for a document. All others
must be those of an architecture, so that a setting which is new is not left out of an export unseen."""


@dataclass(frozen=True)
class Place:
    """Where one of our parameters is kept: in the tensors ``names``, one after another along its first dimension; as
    ``[in, out]`` where it is ``transposed``."""

    names: tuple[str, ...]
    transposed: bool = False

    def split(self, value: torch.Tensor) -> Tensors:
        """The tensors that a parameter becomes."""
        parts = value.chunk(len(self.names))
        return {name: part.T if self.transposed else part for name, part in zip(self.names, parts)}

    def join(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """The parameter that the tensors ``names`` are."""
        turned = [part.T if self.transposed else part for part in parts]
        return torch.cat(turned) if len(turned) > 1 else turned[0]


@dataclass(frozen=True)
class Architecture:
    """A stock architecture: its class, its ``model_type``, what goes into ``config.json`` beside what all have, and
    where it keeps one of our parameters."""

    name: str
    model_type: str
    config: dict[str, Any]
    place: Callable[[str], Place]


def architecture_of(model: ModelConfig, vocab_size: int) -> Architecture:
    """The architecture that computes what the model computes. ``vocab_size``: rows of the embedding. Raises `UserError`
    where there is none."""
    settings = model.model_dump(exclude=_CARRIED_OVER)
    settings["attention_bias"] = model.resolved_attention_bias
    gpt2 = {"positions": "learned", "norm": "layernorm", "mlp": "gelu", "bias": True}
    if settings == gpt2 | {"attention_bias": True, "qk_norm": False} and _heads_fill(model):
        return Architecture("GPT2LMHeadModel", "gpt2", _gpt2_config(model, vocab_size), _gpt2_place)
    llama_like = {"positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "bias": False}
    for name, model_type, attention in (
        ("LlamaForCausalLM", "llama", {"attention_bias": False, "qk_norm": False}),
        ("Qwen2ForCausalLM", "qwen2", {"attention_bias": True, "qk_norm": False}),
        ("Qwen3ForCausalLM", "qwen3", {"attention_bias": False, "qk_norm": True}),
    ):
        if settings == llama_like | attention:
            return Architecture(name, model_type, _llama_config(model, vocab_size), _llama_place)
    shown = ", ".join(f"{key}={value}" for key, value in settings.items())
    raise UserError(
        f"model: found {shown}, with {model.heads} heads of {model.resolved_head_size}, which no stock architecture of "
        f"transformers computes; expected the settings of GPT-2, Llama, Qwen2 or Qwen3"
    )


def _heads_fill(model: ModelConfig) -> bool:
    return model.resolved_kv_heads == model.heads and model.heads * model.resolved_head_size == model.hidden_size


def _gpt2_config(model: ModelConfig, vocab_size: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "n_positions": model.context,
        "n_embd": model.hidden_size,
        "n_layer": model.layers,
        "n_head": model.heads,
        "n_inner": model.resolved_ffn_size,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": model.norm_eps,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": model.tied_embeddings,
    }


def _rope_parameters(model: ModelConfig) -> dict[str, Any]:
    scaling = model.rotary_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": model.rotary_base}
    found: dict[str, Any] = {"rope_type": scaling.kind, "rope_theta": model.rotary_base, "factor": scaling.factor}
    if scaling.kind == "llama3":
        found |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    if scaling.kind == "yarn":
        found |= {
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "original_max_position_embeddings": scaling.original_context,
            "truncate": scaling.truncate,
        }
        if scaling.attention_factor is not None:
            found["attention_factor"] = scaling.attention_factor
    return found


def _llama_config(model: ModelConfig, vocab_size: int) -> dict[str, Any]:
    parameters = _rope_parameters(model)
    # `rope_scaling` is what transformers 4 reads, `rope_parameters` what 5 does
    scaling = {"rope_scaling": parameters} if model.rotary_scaling is not None else {}
    return scaling | {
        "vocab_size": vocab_size,
        "max_position_embeddings": model.context,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.resolved_ffn_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.resolved_kv_heads,
        "head_dim": model.resolved_head_size,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rotary_base,
        "rope_parameters": parameters,
        "attention_bias": False,  # Llama's and Qwen3's; Qwen2 always has biases of queries, keys and values
        "mlp_bias": False,
        "tie_word_embeddings": model.tied_embeddings,
    }


_GPT2 = {
    "attention_norm": "ln_1",
    "mlp_norm": "ln_2",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
_LLAMA = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.out": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
_FUSED = {"attention.qkv": "qkv", "attention.kv": "kv"}


def _gpt2_place(name: str) -> Place:
    """Where a ``GPT2LMHeadModel`` keeps a parameter."""
    outside = {
        "gpt.embedding.tokens.weight": "transformer.wte.weight",
        "gpt.embedding.positions.weight": "transformer.wpe.weight",
        "gpt.norm.weight": "transformer.ln_f.weight",
        "gpt.norm.bias": "transformer.ln_f.bias",
        "head.weight": "lm_head.weight",
    }
    if name in outside:
        return Place((outside[name],))
    number, layer, kind = _in_block(name)
    is_linear = kind == "weight" and not layer.endswith("norm")
    return Place((f"transformer.h.{number}.{_GPT2[layer]}.{kind}",), transposed=is_linear)


def _llama_place(name: str) -> Place:
    """Where a ``LlamaForCausalLM`` or Qwen keeps a parameter."""
    outside = {
        "gpt.embedding.tokens.weight": "model.embed_tokens.weight",
        "gpt.norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    }
    if name in outside:
        return Place((outside[name],))
    number, layer, kind = _in_block(name)
    prefix = f"model.layers.{number}"
    if layer in _FUSED:
        return Place(tuple(f"{prefix}.self_attn.{each}_proj.{kind}" for each in _FUSED[layer]))
    return Place((f"{prefix}.{_LLAMA[layer]}.{kind}",))


def _in_block(name: str) -> tuple[str, str, str]:
    """``gpt.blocks.3.mlp.up.weight`` -> ``("3", "mlp.up", "weight")``."""
    number, _, rest = name.removeprefix("gpt.blocks.").partition(".")
    layer, _, kind = rest.rpartition(".")
    return number, layer, kind
