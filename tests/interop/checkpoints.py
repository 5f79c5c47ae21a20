"""Small Hugging Face checkpoints, made here: models with random weights, tokenizers trained on a novel."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from tests.conftest import SAMPLE_TEXT

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
PATTERNS = {"llama3": _LLAMA3, "qwen": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")}
"""What these families cut text by; GPT-2's is built into `tokenizers`."""

KINDS = {"gpt2": GPT2Config, "llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def stock_config(kind: str, rows: int, **options: Any) -> PreTrainedConfig:
    """Two blocks of width 32; the Llama-like with two heads of keys and values for four of queries."""
    if kind == "gpt2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48}
    else:
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        shape |= {"intermediate_size": 56, "max_position_embeddings": 48}
        shape |= {"head_dim": 10} if kind == "qwen3" else {}
        options = {"rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0}} | options
    return KINDS[kind](vocab_size=rows, **shape | options)


def stock_model(kind: str, rows: int, **options: Any) -> PreTrainedModel:
    """Random weights, norms and biases included, large enough that every one of them matters."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(stock_config(kind, rows, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def stock_tokenizer(kind: str, size: int, specials: list[str]) -> Tokenizer:
    """A tokenizer of the family ``gpt2``, ``llama3`` or ``qwen``; special tokens stand behind ``size`` others."""
    bpe = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "gpt2")
    if kind == "gpt2":
        bpe.pre_tokenizer = level
    else:
        split = pre_tokenizers.Split(Regex(PATTERNS[kind]), behavior="isolated")
        bpe.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    if kind == "qwen":
        bpe.normalizer = normalizers.NFC()
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    text = (SAMPLE_TEXT / "northanger_abbey.jsonl").read_text(encoding="utf-8")
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator((json.loads(line)["text"] for line in text.splitlines()), trainer)
    bpe.add_special_tokens(specials)
    return bpe


def changed_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values | changes), encoding="utf-8")
