"""Cosine of aligned words per layer, beside that of random pairs (the paper's Figure 4)."""

from dataclasses import dataclass

import numpy as np
import torch

from prealign.evaluation.word_pairs import WordPairs, surface_inputs
from prealign.lexicon.compiled import CompiledLexicon
from prealign.objectives.inputs import ModelInputs, WordInputs
from prealign.random_streams import Draw, mix, permute


@dataclass(frozen=True)
class Probe:
    """Word pairs that are watched over training; the same for every run on the same table."""

    words: WordInputs
    pairs: int

    @classmethod
    def build(cls, lexicon: CompiledLexicon, count: int, device: torch.device) -> "Probe | None":
        """Up to ``count`` source words, drawn from the table, each with its first translation; None for an empty
        table."""
        ranges = lexicon.translation_offsets
        has = ranges[:, :, 1] > ranges[:, :, 0]
        usable = np.flatnonzero(has.any(axis=1))
        if len(usable) == 0:
            return None
        count = min(count, len(usable))
        entries = usable[permute(np.arange(count), len(usable), int(mix(Draw.PROBE)))]
        column = has[entries].argmax(axis=1)
        surfaces = np.concatenate((entries, lexicon.translations[ranges[entries, column, 0]]))
        return cls(surface_inputs(lexicon, surfaces, device), count)


def aligned_cosine(model: torch.nn.Module, probe: Probe) -> tuple[list[float], list[float]]:
    """Mean cosine per layer of the probe's aligned pairs, and of each source word with the next one's translation.

    ``model`` maps `ModelInputs` to `ModelOutputs`. Under ZeRO-3 all ranks call this.
    """
    with torch.no_grad():
        z = model(ModelInputs(None, probe.words))["word_vectors"].float()
    source, target = z[:, : probe.pairs], z[:, probe.pairs :]
    aligned = (source * target).sum(dim=2).mean(dim=1)
    random = (source * target.roll(1, dims=1)).sum(dim=2).mean(dim=1)
    return aligned.tolist(), random.tolist()


def pair_cosines(sources: torch.Tensor, targets: torch.Tensor, pairs: WordPairs) -> dict[str, list[float]]:
    """Per layer, over every source word and its first translation: mean cosine, its margin over random pairs, and the
    cosine of centred vectors.

    ``sources [layers, S, D]``, ``targets [layers, T, D]``: vectors of ``pairs.sources`` and ``pairs.targets``, of unit
    length. *Random*: the mean over all other pairings of the same words, exactly. *Centred*: the mean vector of the
    language's words in the set is taken off first, so that a direction which all words of a language share
    (anisotropy, or the language itself) counts nothing.
    """
    first = torch.from_numpy(pairs.first_pairs)
    found: dict[str, list[float]] = {"cosine": [], "random": [], "margin": [], "centred": []}
    for layer_sources, layer_targets in zip(sources.double(), targets.double()):
        x, y = layer_sources[first[:, 0]], layer_targets[first[:, 1]]
        count = len(x)
        aligned = (x * y).sum(dim=1)
        # sum over all pairs (i, j) is the product of the sums; the aligned ones are taken off
        random = float(((x.sum(dim=0) * y.sum(dim=0)).sum() - aligned.sum()) / (count * (count - 1)))
        found["cosine"].append(float(aligned.mean()))
        found["random"].append(random)
        found["margin"].append(float(aligned.mean()) - random)
        found["centred"].append(
            float(torch.cosine_similarity(x - x.mean(dim=0), y - y.mean(dim=0), dim=1, eps=1e-12).mean())
        )
    return found
