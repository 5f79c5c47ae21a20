"""The decoder's shape and kind."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from prealign.config.paths import expand
from prealign.config.sections import Count, Section

_HF = "hf:"


def _first_weights(value: Any) -> Any:
    if value in ("random", "perfect_clone"):
        return value
    if not isinstance(value, str) or not value.startswith(_HF) or value == _HF:
        raise ValueError(f"found {value!r}; expected random, perfect_clone, hf:FOLDER or hf:OWNER/NAME@COMMIT")
    return _HF + expand(value.removeprefix(_HF))


class RotaryScaling(Section):
    """Rotary positions for contexts beyond those that a model was first trained with."""

    kind: Literal["linear", "llama3", "yarn"] = "llama3"
    """`linear`: every frequency is divided by `factor`. `llama3` (Llama 3.1 and later): those whose wavelength is above
    `original_context / low_freq_factor` are, those below `original_context / high_freq_factor` stay, and between the
    two it goes over linearly in `original_context / wavelength`. `yarn` (Peng et al. 2023; Qwen's long contexts): those
    that turn at most `beta_slow` times within `original_context` are, those that turn `beta_fast` times or more stay,
    between the two it goes over linearly in the frequency's number, and queries and keys are multiplied by
    `attention_factor`."""
    factor: Annotated[float, Field(ge=1.0)]
    """How many times slower the slow ones turn."""
    low_freq_factor: Annotated[float, Field(gt=0.0)] = 1.0
    """`llama3` alone."""
    high_freq_factor: Annotated[float, Field(gt=0.0)] = 4.0
    """`llama3` alone; above `low_freq_factor`."""
    original_context: Count = 8192
    """`llama3` and `yarn`: the context of first training, in tokens."""
    beta_fast: Annotated[float, Field(gt=0.0)] = 32.0
    """`yarn` alone; above `beta_slow`."""
    beta_slow: Annotated[float, Field(gt=0.0)] = 1.0
    """`yarn` alone."""
    attention_factor: Annotated[float, Field(gt=0.0)] | None = None
    """`yarn` alone; by default `0.1 ln(factor) + 1`."""
    truncate: bool = True
    """`yarn` alone: the line begins and ends at whole numbers of a frequency, the one before and the one after."""

    @property
    def resolved_attention_factor(self) -> float:
        """What queries and keys are multiplied by."""
        if self.kind != "yarn":
            return 1.0
        return 0.1 * math.log(self.factor) + 1.0 if self.attention_factor is None else self.attention_factor

    @model_validator(mode="after")
    def _ascending(self) -> "RotaryScaling":
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor: found {self.high_freq_factor:g}; expected more than low_freq_factor "
                f"({self.low_freq_factor:g})"
            )
        if self.beta_fast <= self.beta_slow:
            raise ValueError(f"beta_fast: found {self.beta_fast:g}; expected more than beta_slow ({self.beta_slow:g})")
        return self


class ModelConfig(Section):
    """A decoder of pre-norm blocks. The defaults are GPT-2's; rotary positions, RMSNorm, SwiGLU and no biases are
    Llama's."""

    layers: Count
    """Transformer blocks."""
    hidden_size: Count
    """Size of the hidden states."""
    heads: Count
    """Attention heads."""
    kv_heads: Count | None = None
    """Heads of keys and values, each for as many query heads (grouped-query attention); by default `heads`."""
    head_size: Count | None = None
    """Features of a head; by default `hidden_size / heads`."""
    context: Count = 1024
    """Longest sequence, in tokens; training sequences have this length."""
    ffn_multiple: Count = 4
    """Inner size of the MLP, in multiples of `hidden_size`."""
    ffn_size: Count | None = None
    """Inner size of the MLP, in place of `ffn_multiple`."""
    positions: Literal["learned", "rotary"] = "learned"
    """`learned`: a table of `context` vectors, added to the embedding. `rotary`: queries and keys are turned by angles
    that grow with the position (Su et al. 2021)."""
    rotary_base: Annotated[float, Field(gt=1.0)] = 10_000.0
    """Base of the rotary frequencies (Hugging Face's `rope_theta`)."""
    rotary_scaling: RotaryScaling | None = None
    """Slower rotary frequencies, for long contexts; none by default."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Norm before attention and MLP, and after the last block."""
    norm_eps: Annotated[float, Field(gt=0.0)] = 1e-5
    """Added to the variance."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """`gelu`: two layers. `swiglu`: three, one of which gates (Shazeer 2020)."""
    bias: bool = True
    """Biases of linear layers and of LayerNorm."""
    attention_bias: bool | None = None
    """Biases of queries, keys and values; by default `bias`. Qwen2 has these alone."""
    qk_norm: bool = False
    """RMSNorm of every head's query and key, before positions (Qwen3)."""
    tied_embeddings: bool = False
    """One matrix for the input embedding and the LM head."""
    init_std: Annotated[float, Field(gt=0.0)] = 0.02
    """Standard deviation of initial weights; projections into the residual stream have it over ``sqrt(2 * layers)``."""
    init: Annotated[str, BeforeValidator(_first_weights)] = "random"
    """`random`: as GPT-2's. `perfect_clone` copies the original's embedding rows, input and output, to its clones.
    ``hf:FOLDER`` takes the weights of a Hugging Face checkpoint, ``hf:OWNER/NAME@COMMIT`` those of one of the hub, on
    which the run's first stage goes on (`launchers/import_hf.py` writes the keys that fit it); rows that it lacks, of
    clones or padding, start at the mean of those that it has, and those of `data.tokenizer.extension` as `new_rows`
    says."""
    new_rows: Literal["pieces", "translations"] = "pieces"
    """What embedding and LM head have at first for tokens that a checkpoint's tokenizer lacks. `pieces`: the mean of
    the rows of the tokens that it cuts them into. `translations`: where the token is a word of the alignment table, the
    mean over its source words of the mean of their rows, else as `pieces`; the table is that of the align stage
    (`lexicon.top_fraction`, `lexicon.permute`)."""
    vocab_multiple: Count = 128
    """The embedding tables are padded to a multiple of this many rows. Where tensor ranks share them, 128 times as many
    ranks give each a multiple of 128 rows, as tiles of matrix products are made of."""
    reset_at_document: bool = False
    """Attention stops at document ends and positions start again."""
    attention: Literal["auto", "sdpa", "flash"] = "auto"
    """`auto` takes, on Hopper (H100, H200), flash-attn 3 where it is installed, else cuDNN's through torch's
    scaled_dot_product_attention where that is torch's own choice; there without it, and on other GPUs, flash-attn 2
    where it is installed; else torch's, for words its varlen_attn. `flash`: flash-attn, 3 on Hopper where it is
    installed, else 2. A run says which in its first lines."""

    @model_validator(mode="after")
    def _divisible(self) -> "ModelConfig":
        if self.head_size is None and self.hidden_size % self.heads:
            raise ValueError(
                f"found hidden_size={self.hidden_size} and heads={self.heads}; expected hidden_size divisible by heads"
            )
        if self.heads % self.resolved_kv_heads:
            raise ValueError(f"found heads={self.heads} and kv_heads={self.kv_heads}; expected heads divisible by them")
        if self.positions == "rotary" and self.resolved_head_size % 2:
            raise ValueError(
                f"found positions=rotary and heads of {self.resolved_head_size} features; expected an even size"
            )
        if self.positions != "rotary" and self.rotary_scaling is not None:
            raise ValueError(f"rotary_scaling: found a section, with positions={self.positions}; expected rotary ones")
        return self

    @property
    def imported_from(self) -> str | None:
        """The checkpoint that gives the first weights: its folder, or its name on the hub."""
        return self.init.removeprefix(_HF) if self.init.startswith(_HF) else None

    @property
    def resolved_attention_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.bias if self.attention_bias is None else self.attention_bias

    @property
    def resolved_kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    def kv_heads_divide(self, tensor_size: int) -> bool:
        """Whether so many tensor ranks have as many heads of keys and values each, or as many ranks have each head."""
        return not (self.resolved_kv_heads % tensor_size and tensor_size % self.resolved_kv_heads)

    @property
    def resolved_head_size(self) -> int:
        """Features of a head."""
        return self.hidden_size // self.heads if self.head_size is None else self.head_size

    @property
    def resolved_ffn_size(self) -> int:
        """Features inside the MLP."""
        return self.ffn_multiple * self.hidden_size if self.ffn_size is None else self.ffn_size
