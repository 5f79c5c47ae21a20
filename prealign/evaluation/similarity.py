"""Cosine of aligned words per layer, beside that of random pairs."""

from dataclasses import dataclass

import numpy as np
import torch

from prealign.hashing import Draw, mix, permute
from prealign.kernels import full_relations
from prealign.lexicon.compiled import FORMS, CompiledLexicon
from prealign.lexicon.word_batches import WordBatch
from prealign.objectives.inputs import ModelInputs, WordInputs, word_inputs


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
        forms = surfaces * FORMS + lexicon.usual_form[surfaces]
        begin, end = lexicon.form_offsets[forms], lexicon.form_offsets[forms + 1]
        tokens = np.concatenate([lexicon.form_tokens[a:b] for a, b in zip(begin, end)])
        batch = WordBatch(
            torch.from_numpy(tokens.astype(np.int64)),
            torch.from_numpy(end - begin),
            torch.from_numpy(lexicon.surface_language[surfaces].astype(np.int64)),
            tuple(lexicon.languages),
            full_relations(torch.arange(len(forms))),
        )
        words = word_inputs(batch, 0, 1, device)
        return cls(WordInputs(words.ids, words.positions, words.groups, words.spans, None), count)


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
