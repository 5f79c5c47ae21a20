"""The alignment loss: InfoNCE between words and their translations, in every layer (paper, Eq. 2 and 3)."""

import torch
import torch.distributed as dist

from prealign.config.training import AlignConfig
from prealign.kernels import multilayer_infonce
from prealign.objectives.inputs import ModelInputs
from prealign.objectives.terms import Features, Term


class Alignment:
    """``weight * sum_l L^l_align``, or the mean over layers (`align.layer_reduce`).

    For an anchor, take ``-log softmax`` of each of its positives, and their mean; ``L^l`` is the mean of this over all
    anchors. The batch's relations say which words are anchors, and who is whose positive
    (`prealign.data.word_batches`). Each rank gives the part of its own anchors, and the parts of all ranks add up.

    It logs ``align_loss``, the unweighted sum over layers, and by layer ``align_loss_layers`` and
    ``align_cosine_layers``, the mean cosine of positives.
    """

    def __init__(self, config: AlignConfig, group: dist.ProcessGroup | None) -> None:
        """``group``: the ranks whose words are one batch; None: this rank alone."""
        self._config = config
        self._group = group

    def __call__(self, inputs: ModelInputs, features: Features) -> Term | None:
        """See `Objective`."""
        vectors, words, config = features.word_vectors, inputs.words, self._config
        if vectors is None or words is None or words.relations is None:
            return None
        if isinstance(config.layers, list):
            vectors = [vectors[layer] for layer in config.layers]
        losses, cosines = multilayer_infonce(
            vectors, words.relations, config.tau, include_self=config.include_self, group=self._group
        )
        reduced = losses.sum() if config.layer_reduce == "sum" else losses.mean()
        detached = losses.detach().to(torch.float64)
        return Term(
            config.weight * reduced,
            {
                "align_loss": (detached.sum(), None),
                "align_loss_layers": (detached, None),
                "align_cosine_layers": (cosines.detach().to(torch.float64), None),
            },
        )
