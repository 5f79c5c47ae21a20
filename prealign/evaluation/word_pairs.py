"""Pairs of a word and its translation, from the alignment table or from the words that are kept out of it, and their
vectors in a model."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from prealign.data.prepared import PreparedData
from prealign.data.word_batches import WordBatch
from prealign.evaluation.results import NotMeasured
from prealign.lexicon.compiled import FORMS, CompiledLexicon, compile_table
from prealign.lexicon.table import read_table
from prealign.objectives.inputs import ModelInputs, WordInputs, word_inputs
from prealign.random_streams import Draw, mix, permute
from prealign.ranges import ranges

_WORDS_PER_PASS = 4096


@dataclass(frozen=True)
class WordPairs:
    """Source words and their translations in one language, with who translates whom.

    ``sources [S]``, ``targets [T]``: surfaces of ``lexicon``, each once. ``pairs``: int64 ``[n, 2]``, places in the
    two, by source word, its best translation first; every source and every target is in at least one.
    """

    lexicon: CompiledLexicon
    sources: np.ndarray
    targets: np.ndarray
    pairs: np.ndarray

    @property
    def first_pairs(self) -> np.ndarray:
        """Each source word with its first translation, ``[S, 2]``."""
        return self.pairs[np.unique(self.pairs[:, 0], return_index=True)[1]]


def draw_pairs(lexicon: CompiledLexicon, language: str, count: int) -> WordPairs:
    """Up to ``count`` source words with all their translations in ``language``; the same for every run on a table.

    Raises `NotMeasured` where there are fewer than two.
    """
    begin, end = lexicon.translation_offsets[:, lexicon.languages.index(language) - 1].T
    usable = np.flatnonzero(end > begin)
    if len(usable) < 2:
        raise NotMeasured(f"fewer than two words have a translation into '{language}'")
    entries = usable[permute(np.arange(min(count, len(usable))), len(usable), int(mix(Draw.PROBE)))]
    sizes = end[entries] - begin[entries]
    surfaces = lexicon.translations[ranges(begin[entries], sizes)].astype(np.int64)
    targets, place = np.unique(surfaces, return_inverse=True)
    pairs = np.stack((np.repeat(np.arange(len(entries)), sizes), place), axis=1)
    return WordPairs(lexicon, entries, targets, pairs)


def heldout_lexicon(data: PreparedData) -> CompiledLexicon:
    """The words that `lexicon.heldout_fraction` keeps out of the table, compiled as the table is. Raises
    `NotMeasured`."""
    if "heldout_words" not in data.artefacts:
        raise NotMeasured("no words are held out (lexicon.heldout_fraction is 0)")
    recipe = data.recipe
    names = [recipe.source_language, *recipe.targets]
    clones = {name: recipe.token_offset(name) for name in recipe.targets if recipe.languages[name].clone_of}
    with tempfile.TemporaryDirectory() as folder:
        compile_table(
            read_table(data.artefacts["heldout_words"].folder / "heldout.jsonl"),
            data.tokenizer,
            names,
            {name: recipe.languages[name].space_prefix for name in names},
            {name: recipe.languages[name].cased for name in names},
            clones,
            Path(folder),
        )
        return CompiledLexicon.load(Path(folder), names)


def word_vectors(
    model: torch.nn.Module, lexicon: CompiledLexicon, surfaces: np.ndarray, device: torch.device
) -> torch.Tensor:
    """Vectors of words in their usual form, ``[layers, W, D]`` in fp32 on the host, of unit length.

    ``model`` maps `ModelInputs` to `ModelOutputs`. Every word is encoded alone (paper, Eq. 1).
    """
    parts = []
    for first in range(0, len(surfaces), _WORDS_PER_PASS):
        words = surface_inputs(lexicon, surfaces[first : first + _WORDS_PER_PASS], device)
        with torch.no_grad():
            parts.append(model(ModelInputs(None, words))["word_vectors"].float().cpu())
    return torch.cat(parts, dim=1)


def surface_inputs(lexicon: CompiledLexicon, surfaces: np.ndarray, device: torch.device) -> WordInputs:
    """Words in their usual form as the model's input, without relations."""
    tokens, lengths = lexicon.tokens_of(surfaces * FORMS + lexicon.usual_form[surfaces])
    batch = WordBatch(
        torch.from_numpy(tokens.astype(np.int64)),
        torch.from_numpy(lengths),
        torch.from_numpy(lexicon.surface_language[surfaces].astype(np.int64)),
        tuple(lexicon.languages),
        relations=None,
    )
    return word_inputs(batch, 0, 1).to(device)
