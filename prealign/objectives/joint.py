"""The module that is trained: its forward computes ``L = align.weight * sum_l L^l_align + L_LM`` (paper, Eq. 3-4), plus
terms that a user adds.

Everything that touches a parameter happens inside the forward of the module that owns it, so that ZeRO-3 gathers what
is needed, once per pass.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from prealign.config import Recipe
from prealign.config.running import Recompute
from prealign.kernels import pool_spans
from prealign.model.gpt import GPT, Recomputation, Spans
from prealign.model.tensor_ranks import TensorRanks, look_up
from prealign.objectives.alignment import Alignment
from prealign.objectives.cross_entropy import linear_cross_entropy
from prealign.objectives.inputs import ModelInputs
from prealign.objectives.language_model import LanguageModel
from prealign.objectives.terms import Features, Objective, Sums


class ModelOutputs(TypedDict):
    """What a forward pass gives (a plain dict, in which DeepSpeed finds the tensors).

    ``loss``: scalar to differentiate, None where no loss was asked for. ``sums``: what the objectives log.
    ``token_losses``: as in `Features`. ``word_vectors``: ``[layers, W_local, D]``, unit length; None but for words
    without relations, which are measured and not trained on.
    """

    loss: torch.Tensor | None
    sums: Sums
    token_losses: torch.Tensor | None
    word_vectors: torch.Tensor | None


class Head(nn.Module):
    """The LM head; ``weight`` is ``[V, D]``, or this tensor rank's rows of that, no bias."""

    def __init__(self, rows: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, hidden_size))
        self.tensor_ranks: TensorRanks | None = None
        """Who share the rows; None: they are all here."""

    def forward(
        self,
        hidden_states: torch.Tensor | None,
        targets: torch.Tensor | None,
        ids: torch.Tensor | None,
        spans: Spans | None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Of text, the summed (scalar) and per-token cross-entropy ``[tokens]`` of ``hidden_states`` ``[tokens, D]``;
        of words, their vectors in the output embedding ``[W_local, D]``."""
        total = losses = vectors = None
        if hidden_states is not None and targets is not None:
            total, losses = linear_cross_entropy(hidden_states, self.weight, targets, self.tensor_ranks)
        if ids is not None and spans is not None:
            vectors = self._pooled(ids, spans)
        return total, losses, vectors

    def _pooled(self, ids: torch.Tensor, spans: Spans) -> torch.Tensor:
        if self.tensor_ranks is None:
            return pool_spans(self.weight, spans.starts, spans.lengths, ids)
        weight = self.weight
        vectors = look_up(lambda local: F.embedding(local, weight), ids, len(weight), self.tensor_ranks)
        return pool_spans(vectors, spans.starts, spans.lengths)


def _recompute_every(mode: Recompute) -> int | None:
    """``none``, ``full`` or k -> None, 1 or k."""
    return mode if isinstance(mode, int) else {"none": None, "full": 1}[mode]


class JointModel(nn.Module):
    """GPT with its LM head and the objectives."""

    def __init__(
        self,
        recipe: Recipe,
        group: dist.ProcessGroup | None = None,
        objectives: Sequence[Objective] = (),
        vocabulary_ranks: int = 1,
    ) -> None:
        """``group``: the ranks that a step's words are shared among. ``objectives``: terms beside the two of the
        paper. ``vocabulary_ranks``: tensor ranks that share the rows of the embedding tables, and whom `share_rows` is
        to name before a forward pass."""
        super().__init__()
        self.tied = recipe.model.tied_embeddings
        self.objectives: tuple[Objective, ...] = (
            LanguageModel(list(recipe.languages)),
            Alignment(recipe.align, group),
            *objectives,
        )
        rows, hidden_size = recipe.padded_vocab_size // vocabulary_ranks, recipe.model.hidden_size
        text, words = recipe.parallel.activation_checkpointing, recipe.parallel.word_activation_checkpointing
        recomputation = Recomputation(_recompute_every(text), _recompute_every(text if words is None else words))
        self._compiled: Callable[[JointModel, ModelInputs], ModelOutputs] | None = None
        self.gpt = GPT(recipe.model, rows, recomputation, recipe.align.final_norm)
        self.head = Head(rows, hidden_size)
        self.tie()

    def tie(self) -> None:
        """Make tied embeddings one parameter; call it again after what makes new parameters, as `to_empty` does."""
        if self.tied:
            self.head.weight = self.gpt.embedding.tokens.weight  # type: ignore[assignment]

    def share_rows(self, ranks: TensorRanks) -> None:
        """Let embedding and head find the rows that are not here with ``ranks``."""
        self.gpt.embedding.tensor_ranks = self.head.tensor_ranks = ranks

    def compile_training(self, backend: str | Callable[..., Any], dynamic: bool | None) -> None:
        """Take passes in training mode through ``torch.compile``, with its arguments; others, as evaluations, whose
        shapes are many, run as they are."""
        # of the class's function, which holds no model: a model that is let go is freed at once
        self._compiled = torch.compile(JointModel._outputs, backend=backend, dynamic=dynamic)

    def run_uncompiled(self) -> None:
        """Undo `compile_training`."""
        self._compiled = None

    def forward(self, inputs: ModelInputs) -> ModelOutputs:
        """Loss of one micro-batch, and what to log of it."""
        if self.training and self._compiled is not None:
            return self._compiled(self, inputs)
        return self._outputs(inputs)

    def _outputs(self, inputs: ModelInputs) -> ModelOutputs:
        features = self._features(inputs)
        outputs = ModelOutputs(loss=None, sums={}, token_losses=features.token_losses, word_vectors=None)
        if inputs.words is not None and inputs.words.relations is None and features.word_vectors is not None:
            outputs["word_vectors"] = torch.stack(features.word_vectors)
        for objective in self.objectives:  # the LM loss, the alignment loss times its weight, a user's terms
            term = objective(inputs, features)
            if term is not None:
                share = inputs.passes * term.loss  # the engine averages over passes; terms are parts of a sum
                outputs["loss"] = share if outputs["loss"] is None else outputs["loss"] + share
                if both := outputs["sums"].keys() & term.sums.keys():
                    raise ValueError(f"two objectives log {sorted(both)}; expected names of their own")
                outputs["sums"] |= term.sums
        return outputs

    def _features(self, inputs: ModelInputs) -> Features:
        """Hidden states, losses of tokens and vectors of words, in one pass over text and words."""
        text, words = inputs.text, inputs.words
        hidden_states, vectors = self.gpt(inputs.cat("ids"), inputs.cat("positions"), inputs.layout, inputs.spans)
        ids, spans = (words.ids, words.spans) if words is not None and not self.tied else (None, None)
        states, targets = (hidden_states[: text.group.tokens], text.targets) if text is not None else (None, None)
        nats, token_losses, output_vectors = self.head(states, targets, ids, spans)
        if output_vectors is not None:  # tied, the output embedding is layer 0: counted once
            vectors.append(output_vectors)
        return Features(states, nats, token_losses, vectors if words is not None else None)
