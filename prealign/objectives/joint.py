"""The module that is trained: its forward computes ``L_joint = lambda * sum_l L^l_align + L_LM`` (paper, Eq. 3-4).

Everything that touches a parameter happens inside the forward of the module that owns it, so that ZeRO-3 gathers what
is needed, once per pass.
"""

from typing import TypedDict

import torch
import torch.distributed as dist
from torch import nn

from prealign.config import Recipe
from prealign.config.running import Recompute
from prealign.kernels import multilayer_infonce, pool_spans
from prealign.model.gpt import GPT, Recomputation, Spans
from prealign.objectives.cross_entropy import linear_cross_entropy
from prealign.objectives.inputs import ModelInputs, TextInputs, WordInputs


class ModelOutputs(TypedDict):
    """What a forward pass gives (a plain dict, in which DeepSpeed finds the tensors); entries are None where not asked
    for.

    ``loss``: scalar to differentiate. ``token_losses``: nats per text token, ``[rows * length]``, 0 where there is no
    target. ``align_losses``, ``cosines``: this rank's share per layer of the loss, ``[layers]``. ``word_vectors``:
    ``[layers, W_local, D]``, unit length.
    """

    loss: torch.Tensor | None
    token_losses: torch.Tensor | None
    align_losses: torch.Tensor | None
    cosines: torch.Tensor | None
    word_vectors: torch.Tensor | None


class Head(nn.Module):
    """The LM head; ``weight`` is ``[V, D]``, no bias."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))

    def forward(
        self,
        hidden_states: torch.Tensor | None,
        targets: torch.Tensor | None,
        ids: torch.Tensor | None,
        spans: Spans | None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Summed and per-token cross-entropy of ``hidden_states`` ``[tokens, D]``; output-embedding vectors of
        words."""
        total = losses = vectors = None
        if hidden_states is not None and targets is not None:
            total, losses = linear_cross_entropy(hidden_states, self.weight, targets)
        if ids is not None and spans is not None:
            vectors = pool_spans(self.weight, spans.starts, spans.lengths, ids)
        return total, losses, vectors


def _blocks_between(mode: Recompute) -> int | None:
    return mode if isinstance(mode, int) else {"none": None, "full": 1}[mode]


class JointModel(nn.Module):
    """GPT with its LM head and both objectives."""

    def __init__(self, recipe: Recipe, group: dist.ProcessGroup | None = None) -> None:
        super().__init__()
        self.config = recipe.align
        self.tied = recipe.model.tied_embeddings
        self.group = group
        vocab_size, hidden_size = recipe.padded_vocab_size, recipe.model.hidden_size
        text, words = recipe.parallel.activation_checkpointing, recipe.parallel.word_activation_checkpointing
        every = Recomputation(_blocks_between(text), _blocks_between(text if words is None else words))
        self.gpt = GPT(recipe.model, vocab_size, every, recipe.align.final_norm)
        self.head = Head(vocab_size, hidden_size)
        if self.tied:
            self.head.weight = self.gpt.embedding.tokens.weight  # type: ignore[assignment]

    def forward(self, inputs: ModelInputs) -> ModelOutputs:
        """Losses of one micro-batch; see `ModelInputs` and `ModelOutputs`."""
        text, words = inputs.text, inputs.words
        outputs = ModelOutputs(loss=None, token_losses=None, align_losses=None, cosines=None, word_vectors=None)
        hidden_states, vectors = self.gpt(inputs.cat("ids"), inputs.cat("positions"), inputs.layout, inputs.spans)
        total, outputs["token_losses"], output_vectors = self._head(hidden_states, text, words)
        if total is not None and inputs.text_scale is not None:
            outputs["loss"] = total * inputs.text_scale
        if words is None:
            return outputs
        if output_vectors is not None:  # tied, the output embedding is layer 0: counted once
            vectors.append(output_vectors)
        if words.relations is None:
            outputs["word_vectors"] = torch.stack(vectors)
            return outputs
        if isinstance(self.config.layers, list):
            vectors = [vectors[layer] for layer in self.config.layers]
        losses, outputs["cosines"] = multilayer_infonce(
            vectors, words.relations, self.config.tau, include_self=self.config.include_self, group=self.group
        )
        outputs["align_losses"] = losses.detach()
        reduced = losses.sum() if self.config.layer_reduce == "sum" else losses.mean()
        align = self.config.weight * inputs.words_scale * reduced
        outputs["loss"] = align if outputs["loss"] is None else outputs["loss"] + align
        return outputs

    def _head(
        self, hidden_states: torch.Tensor, text: TextInputs | None, words: WordInputs | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        ids, spans = (words.ids, words.spans) if words is not None and not self.tied else (None, None)
        if text is None:
            return self.head(None, None, ids, spans)
        return self.head(hidden_states[: text.group.tokens], text.targets, ids, spans)
