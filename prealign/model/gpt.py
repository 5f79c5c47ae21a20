"""The decoder: pre-norm blocks, as in GPT-2 or Llama. The mathematics, and nothing else.

``words`` run through the same forward pass as the text: their token vectors are pooled in the embedding, inside each
block and at the LM head, so that sharded parameters are gathered once and no layer's hidden states are kept for them.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from prealign.config.model import ModelConfig
from prealign.kernels import pool_spans
from prealign.model.attention import KeyValues, SelfAttention
from prealign.model.layers import mlp, norm, rotary_angles
from prealign.model.layout import Layout
from prealign.model.tensor_ranks import TensorRanks, look_up


@dataclass(frozen=True)
class Spans:
    """Words among the tokens: word ``w`` is tokens ``starts[w] : starts[w] + lengths[w]``; both int64 ``[W]``."""

    starts: torch.Tensor
    lengths: torch.Tensor


class Embedding(nn.Module):
    """Token embedding, plus that of positions where they are learned; the words' vectors are taken before positions are
    added (layer 0)."""

    def __init__(self, config: ModelConfig, rows: int) -> None:
        """``rows``: of the token embedding, all or this tensor rank's part."""
        super().__init__()
        self.tokens = nn.Embedding(rows, config.hidden_size)
        self.tensor_ranks: TensorRanks | None = None
        """Who share the rows of `tokens`; None: they are all here."""
        learned = config.positions == "learned"
        self.positions = nn.Embedding(config.context, config.hidden_size) if learned else None

    def forward(
        self, input_ids: torch.Tensor, positions: torch.Tensor, spans: Spans | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``[tokens]`` -> hidden states ``[tokens, D]`` and word vectors ``[W, D]``."""
        ranks = self.tensor_ranks
        if ranks is None:
            tokens = self.tokens(input_ids)
        else:
            tokens = look_up(self.tokens, input_ids, self.tokens.num_embeddings, ranks)
        hidden_states = tokens if self.positions is None else tokens + self.positions(positions)
        return hidden_states, _pool(tokens, spans)


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = norm(config, config.hidden_size)
        self.attention = SelfAttention(config)
        self.mlp_norm = norm(config, config.hidden_size)
        self.mlp = mlp(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        layout: Layout,
        spans: Spans | None,
        angles: torch.Tensor | None = None,
        cache: KeyValues | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``[tokens, D]`` -> hidden states ``[tokens, D]`` and word vectors ``[W, D]`` of this layer. ``angles``: of
        rotary positions. ``cache``: as in `SelfAttention`."""
        attended = self.attention(self.attention_norm(hidden_states), layout, angles, cache)
        hidden_states = hidden_states + attended
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

    def __init__(self, config: ModelConfig, rows: int, recompute: Recomputation, words_after_norm: bool) -> None:
        """``rows``: as in `Embedding`."""
        super().__init__()
        self.config = config
        self.embedding = Embedding(config, rows)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = norm(config, config.hidden_size)
        self.recompute = recompute
        self.words_after_norm = words_after_norm

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        layout: Layout,
        spans: Spans | None = None,
        cache: list[KeyValues] | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """``[tokens]`` -> final hidden states ``[tokens, D]`` (after the last norm) and, with ``spans``, the word
        vectors of layers 0 to L, ``L + 1`` tensors ``[W, D]`` of unit length. ``cache``: for generation, one
        `KeyValues` a block (`new_cache`), which take in the keys and values of these tokens."""
        hidden_states, vectors = self.embedding(input_ids, positions, spans)
        angles = rotary_angles(self.config, positions) if self.config.positions == "rotary" else None
        words = [vectors]
        every = self.recompute.text if spans is None else self.recompute.words
        for number, block in enumerate(self.blocks):
            last = number == len(self.blocks) - 1
            block_spans = None if last and self.words_after_norm else spans
            if every and number % every == 0 and self.training:  # there is no dropout whose state to keep
                hidden_states, vectors = checkpoint(
                    block, hidden_states, layout, block_spans, angles, use_reentrant=False, preserve_rng_state=False
                )
            else:
                past = cache[number] if cache is not None else None
                hidden_states, vectors = block(hidden_states, layout, block_spans, angles, past)
            words.append(vectors)
        hidden_states = self.norm(hidden_states)
        if self.words_after_norm:
            words[-1] = _pool(hidden_states, spans)
        return hidden_states, [vectors for vectors in words if vectors is not None]

    def new_cache(self) -> list[KeyValues]:
        """A cache for `forward`, of rows that have no tokens yet."""
        return [KeyValues() for _ in self.blocks]


def _pool(hidden_states: torch.Tensor, spans: Spans | None) -> torch.Tensor | None:
    return None if spans is None else pool_spans(hidden_states, spans.starts, spans.lengths)
