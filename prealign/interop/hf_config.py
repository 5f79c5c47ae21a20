"""A Hugging Face ``config.json`` in the keys of a recipe's `model`, and what in it our model cannot be."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prealign.config.model import ModelConfig
from prealign.errors import UserError

MARK = "prealign.json"
"""A file that only our exports have."""

_OURS = (
    "layers",
    "hidden_size",
    "heads",
    "kv_heads",
    "head_size",
    "context",
    "ffn_size",
    "positions",
    "rotary_base",
    "rotary_scaling",
    "norm",
    "norm_eps",
    "mlp",
    "bias",
    "attention_bias",
    "qk_norm",
    "tied_embeddings",
)
"""Keys that a checkpoint decides; `context` is the most that a recipe can have."""

_MOST_PADDING = 1024
"""Rows that a checkpoint may have behind those of its tokenizer."""

_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh")


@dataclass(frozen=True)
class HuggingFaceModel:
    """What a checkpoint's ``config.json`` says. ``model``: ours. ``rows``: of its embedding. ``vocab_blocks``: in an
    export of ours, the tokenizer's block of token ids and one for each clone language, else 1."""

    folder: Path
    model_type: str
    model: ModelConfig
    rows: int
    vocab_blocks: int

    @property
    def section(self) -> dict[str, Any]:
        """The keys of `model` that fit, without those that are as by default."""
        default = ModelConfig(layers=1, hidden_size=1, heads=1)
        needed = ("layers", "hidden_size", "heads", "context")
        values = self.model.model_dump(mode="json")
        return {key: values[key] for key in _OURS if key in needed or getattr(self.model, key) != getattr(default, key)}


def read_model(folder: Path) -> HuggingFaceModel:
    """Read ``folder/config.json``. Raises `UserError` where there is none, or none that our model can be."""
    config = _read_json(folder)
    path = folder / "config.json"
    model_type = config.get("model_type")
    if model_type not in _READERS:
        raise UserError(f"{path}: found model_type {model_type!r}; expected one of {sorted(_READERS)}")
    try:
        settings, foreign = _READERS[model_type](config)
        foreign += _differing(config, {"quantization_config": (None,)})
        rows = int(config["vocab_size"])
        if foreign:
            raise UserError(f"{path}: {'; '.join(foreign)}; this trainer has no such model; choose another checkpoint")
        model = ModelConfig(**settings)
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]}: missing; expected the config of a {model_type}") from None
    except (ValidationError, ValueError, TypeError, AttributeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise UserError(f"{path}: not the config of a {model_type} ({reason}); restore it") from None
    return HuggingFaceModel(folder, model_type, model, rows, _vocab_blocks(folder))


def check_model(found: HuggingFaceModel, recipe_model: ModelConfig) -> None:
    """Raise `UserError`, which names every key, where the recipe's `model` is not the checkpoint's."""
    wrong = []
    for key in _OURS:
        ours, theirs = _resolved(recipe_model, key), _resolved(found.model, key)
        if key == "context" and ours > theirs:
            wrong.append(f"model.context: found {ours} in the recipe, at most {theirs} in it")
        elif key in ("rotary_base", "rotary_scaling") and found.model.positions != "rotary":
            continue
        elif key != "context" and ours != theirs:
            wrong.append(f"model.{key}: found {_shown(ours)} in the recipe, {_shown(theirs)} in it")
    if wrong:
        raise UserError(
            f"model.init: {found.folder / 'config.json'} is of another model: {'; '.join(wrong)}; "
            f"python launchers/import_hf.py {found.folder} prints the keys that fit"
        )


def check_rows(found: HuggingFaceModel, vocab_size: int) -> None:
    """Raise `UserError` unless the embedding has a row for every token of a tokenizer, and few others."""
    blocks = found.vocab_blocks
    if not 0 <= found.rows - blocks * vocab_size < _MOST_PADDING:
        raise UserError(
            f"data.tokenizer.vocab_size: found {vocab_size:,}; the embedding in {found.folder} has {found.rows:,} rows"
            + (f" for {blocks} vocabularies" if blocks > 1 else "")
            + "; expected its own tokenizer, which launchers/import_hf.py --out makes ready for data.tokenizer"
        )


def _resolved(model: ModelConfig, key: str) -> Any:
    return getattr(model, f"resolved_{key}", getattr(model, key))


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected the config of a Hugging Face checkpoint") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore it") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: found {type(config).__name__}; expected the config of a Hugging Face checkpoint")
    return config


def _vocab_blocks(folder: Path) -> int:
    """Blocks of token ids in an export of ours; 1 in a checkpoint of others."""
    try:
        return int(json.loads((folder / MARK).read_text(encoding="utf-8"))["vocab_blocks"])
    except FileNotFoundError:
        return 1
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder / MARK}: says no vocab_blocks; export the run again, by launchers/export.py"
        ) from None


def _differing(config: dict[str, Any], expected: dict[str, tuple[Any, ...]]) -> list[str]:
    """Settings that are given and not of those that ours can be (the first of which is what is meant without them)."""
    return [
        f"{key}: found {config[key]!r}; expected {' or '.join(map(repr, values))}"
        for key, values in expected.items()
        if config.get(key, values[0]) not in values
    ]


def _gpt2(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    expected = {
        "activation_function": _TANH_GELU,
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    }
    settings = {
        "layers": config["n_layer"],
        "hidden_size": config["n_embd"],
        "heads": config["n_head"],
        "context": config["n_positions"],
        "ffn_size": config.get("n_inner"),
        "norm_eps": config.get("layer_norm_epsilon", 1e-5),
        "tied_embeddings": config.get("tie_word_embeddings", True),
    }
    return settings, _differing(config, expected)


def _llama(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    rotary = (config.get("rope_scaling") or {}) | (config.get("rope_parameters") or {})
    expected = {
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "partial_rotary_factor": (1.0, None),
        "use_sliding_window": (False, None),
    }
    foreign = _differing(config, expected)
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    if kind not in ("default", "linear", "llama3", "yarn"):
        foreign.append(f"rope scaling: found {kind!r}; expected none, linear, llama3 or yarn")
    if kind == "yarn":
        foreign += _differing(rotary, {"mscale": (None,), "mscale_all_dim": (None,)})
    if rotary.get("partial_rotary_factor", 1.0) != 1.0:
        foreign.append(f"partial_rotary_factor: found {rotary['partial_rotary_factor']}; expected 1")
    kinds = sorted(set(config.get("layer_types") or ["full_attention"]) - {"full_attention"})
    if kinds:
        foreign.append(f"layer_types: found {kinds}; expected full_attention alone")
    heads = config["num_attention_heads"]
    model = {
        "layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "heads": heads,
        "kv_heads": _unless(config.get("num_key_value_heads"), heads),
        "head_size": _unless(config.get("head_dim"), config["hidden_size"] // heads),
        "context": config["max_position_embeddings"],
        "ffn_size": config["intermediate_size"],
        "positions": "rotary",
        "rotary_base": float(rotary.get("rope_theta", config.get("rope_theta", 10_000.0))),
        "rotary_scaling": _scaling(kind, rotary),
        "norm": "rmsnorm",
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "mlp": "swiglu",
        "bias": False,
        "tied_embeddings": config.get("tie_word_embeddings", False),
    }
    return model, foreign


def _scaling(kind: str, rotary: dict[str, Any]) -> dict[str, Any] | None:
    """Our `RotaryScaling` of rope parameters; a key that a kind needs and they lack raises `KeyError`."""
    if kind not in ("linear", "llama3", "yarn"):
        return None
    found: dict[str, Any] = {"kind": kind, "factor": rotary["factor"]}
    if kind == "llama3":
        found |= {key: rotary[key] for key in ("low_freq_factor", "high_freq_factor")}
    if kind == "yarn":
        found |= {"beta_fast": rotary.get("beta_fast") or 32.0, "beta_slow": rotary.get("beta_slow") or 1.0}
        found |= {"attention_factor": rotary.get("attention_factor"), "truncate": rotary.get("truncate", True)}
    if kind != "linear":
        found["original_context"] = rotary["original_max_position_embeddings"]
    return found


def _qwen2(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    settings, foreign = _llama(config)
    return settings | {"attention_bias": True}, foreign


def _qwen3(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    settings, foreign = _llama({"head_dim": 128} | config)
    return settings | {"qk_norm": True}, foreign


def _unless(value: Any, usual: int) -> Any:
    """None for what is usual, so that the section stays short."""
    return None if value == usual else value


_READERS: dict[str, Callable[[dict[str, Any]], tuple[dict[str, Any], list[str]]]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
}
"""By ``model_type``: the settings of a `ModelConfig`, and what ours cannot be."""
