"""GPT-2 style decoder: learned positions, pre-LayerNorm, GELU. The mathematics, and nothing else.

``words`` run through the same forward pass as the text: their token vectors are pooled in the embedding, inside each
block and at the LM head, so that sharded parameters are gathered once and no layer's hidden states are kept for them.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from prealign.config.recipe import ModelConfig
from prealign.kernels import pool_spans
from prealign.model.attention import SelfAttention
from prealign.model.layout import Layout


@dataclass(frozen=True)
class Spans:
    """Words among the tokens: word ``w`` is tokens ``starts[w] : starts[w] + lengths[w]``; both int64 ``[W]``."""

    starts: torch.Tensor
    lengths: torch.Tensor


class Embedding(nn.Module):
    """Token plus position embedding; the words' vectors are taken before positions are added (layer 0)."""

    def __init__(self, vocab_size: int, context: int, hidden_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, hidden_size)
        self.positions = nn.Embedding(context, hidden_size)

    def forward(
        self, input_ids: torch.Tensor, positions: torch.Tensor, spans: Spans | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``[tokens]`` -> hidden states ``[tokens, D]`` and word vectors ``[W, D]``."""
        tokens = self.tokens(input_ids)
        return tokens + self.positions(positions), _pool(tokens, spans)


class MLP(nn.Module):
    """``down(gelu(up(x)))``, GELU in its tanh form as in GPT-2."""

    def __init__(self, hidden_size: int, ffn_size: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_size, ffn_size)
        self.down = nn.Linear(ffn_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(hidden_states), approximate="tanh"))


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = SelfAttention(config.hidden_size, config.heads, config.attention)
        self.mlp_norm = nn.LayerNorm(config.hidden_size)
        self.mlp = MLP(config.hidden_size, config.ffn_multiple * config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, layout: Layout, spans: Spans | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``[tokens, D]`` -> hidden states ``[tokens, D]`` and word vectors ``[W, D]`` of this layer."""
        hidden_states = hidden_states + self.attention(self.attention_norm(hidden_states), layout)
        hidden_states = hidden_states + self.mlp(self.mlp_norm(hidden_states))
        return hidden_states, _pool(hidden_states, spans)


@dataclass(frozen=True)
class Recomputation:
    """Every k-th block is recomputed in the backward pass, in passes of text alone and in those with words; None: no
    block."""

    text: int | None = None
    words: int | None = None


class GPT(nn.Module):
    """The decoder without its LM head."""

    def __init__(self, config: ModelConfig, vocab_size: int, recompute: Recomputation, words_after_norm: bool) -> None:
        super().__init__()
        self.embedding = Embedding(vocab_size, config.context, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.recompute = recompute
        self.words_after_norm = words_after_norm

    def forward(
        self, input_ids: torch.Tensor, positions: torch.Tensor, layout: Layout, spans: Spans | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """``[tokens]`` -> final hidden states ``[tokens, D]`` (after the last LayerNorm) and, with ``spans``, the word
        vectors of layers 0 to L, ``L + 1`` tensors ``[W, D]`` of unit length."""
        hidden_states, vectors = self.embedding(input_ids, positions, spans)
        words = [vectors]
        every = self.recompute.text if spans is None else self.recompute.words
        for number, block in enumerate(self.blocks):
            last = number == len(self.blocks) - 1
            block_spans = None if last and self.words_after_norm else spans
            if every and number % every == 0 and self.training:  # there is no dropout whose state to keep
                hidden_states, vectors = checkpoint(
                    block, hidden_states, layout, block_spans, use_reentrant=False, preserve_rng_state=False
                )
            else:
                hidden_states, vectors = block(hidden_states, layout, block_spans)
            words.append(vectors)
        hidden_states = self.norm(hidden_states)
        if self.words_after_norm:
            words[-1] = _pool(hidden_states, spans)
        return hidden_states, [vectors for vectors in words if vectors is not None]


def _pool(hidden_states: torch.Tensor, spans: Spans | None) -> torch.Tensor | None:
    return None if spans is None else pool_spans(hidden_states, spans.starts, spans.lengths)
