"""MEXA (Kargaran et al. 2024, arXiv:2410.05873): do parallel sentences find each other in a model's hidden states?"""

from pathlib import Path
from typing import Any

import numpy as np
import regex
import torch

from prealign.data.prepared import PreparedData
from prealign.errors import UserError
from prealign.evaluation.results import NotMeasured
from prealign.model.layout import Group, Layout
from prealign.objectives.joint import JointModel

_SENTENCE_END = regex.compile(r"(?<=[.!?][\"'”’)\]]?)\s+")
_SHORTEST = 8
"""Tokens of a sentence that is taken from held-out text."""

SentencePair = tuple[np.ndarray, np.ndarray]
"""Token ids of a sentence in the source language and in a target language."""


def mexa(sources: torch.Tensor, targets: torch.Tensor) -> float:
    """The weak alignment score of one layer.

    ``sources``, ``targets``: ``[n, D]``, row ``i`` of both from parallel sentences. The share of sentences ``i`` with
    ``c_ii > max_{j != i} {c_ij, c_ji}``, where ``c`` are cosines (Eq. 1 of the paper).
    """
    if len(sources) < 2:
        raise ValueError(f"found {len(sources)} sentences; expected at least two")
    c = torch.nn.functional.normalize(sources.double()) @ torch.nn.functional.normalize(targets.double()).T
    diagonal = c.diagonal()
    others = c.clone().fill_diagonal_(-torch.inf)
    nearest = torch.maximum(others.max(dim=0).values, others.max(dim=1).values)
    return float((diagonal > nearest).double().mean())


def mexa_of_pairs(model: JointModel, pairs: list[SentencePair], rows: int, device: torch.device) -> dict[str, Any]:
    """Score per layer of sentence pairs, with the mean and the maximum over layers.

    ``chance``: the score of ``n`` pairs of unrelated vectors, ``1 / (2n - 1)``, as any of the ``2n - 1`` cosines of a
    pair's row and column may be the highest.
    """
    sources = sentence_embeddings(model, [source for source, _ in pairs], rows, device)
    targets = sentence_embeddings(model, [target for _, target in pairs], rows, device)
    layers = [mexa(a, b) for a, b in zip(sources, targets)]
    return {
        "layers": layers,
        "mean": float(np.mean(layers)),
        "max": max(layers),
        "chance": 1 / (2 * len(pairs) - 1),
        "sentences": len(pairs),
    }


def sentence_embeddings(
    model: JointModel, sentences: list[np.ndarray], rows: int, device: torch.device
) -> torch.Tensor:
    """Position-weighted means of hidden states, ``[L + 1, n, D]`` in fp32 on the host.

    ``sum_t (t / sum_k k) h_t`` with ``t`` from 1 (Muennighoff 2022), which suits decoders: later tokens have seen more.
    Layer 0 is the embedding with positions, layer L comes after the final norm. Sentences run ``rows`` at a time,
    padded on the right, where causal attention keeps pads out.
    """
    states: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, arguments: Any, output: tuple[torch.Tensor, Any]) -> None:
        states.append(output[0])

    layers = [model.gpt.embedding, *model.gpt.blocks]
    hooks = [module.register_forward_hook(keep) for module in layers]
    result = torch.empty((len(layers), len(sentences), model.head.weight.shape[1]))
    try:
        for first in range(0, len(sentences), rows):
            part = sentences[first : first + rows]
            lengths = torch.tensor([len(sentence) for sentence in part], device=device)
            longest = int(lengths.max())
            ids = torch.zeros((len(part), longest), dtype=torch.int64)
            for row, sentence in enumerate(part):
                ids[row, : len(sentence)] = torch.from_numpy(sentence.astype(np.int64))
            place = torch.arange(longest, device=device)
            states.clear()
            with torch.no_grad():
                last, _ = model.gpt(
                    ids.flatten().to(device),
                    place.repeat(len(part)),
                    Layout((Group(len(part), longest),), device),
                )
            weights = (place + 1) * (place < lengths[:, None])
            weights = weights.float() / weights.sum(dim=1, keepdim=True)
            for layer, hidden in enumerate([*states[:-1], last]):
                mean = torch.einsum("rt,rtd->rd", weights, hidden.view(len(part), longest, -1).float())
                result[layer, first : first + len(part)] = mean.cpu()
    finally:
        for hook in hooks:
            hook.remove()
    return result


def sentence_pairs(data: PreparedData, language: str) -> list[SentencePair]:
    """Parallel sentences of the source language and ``language``, as token ids cut to the context.

    A clone of the source language takes held-out sentences and their clones; any other language the file that
    `evaluation.parallel` names. Raises `NotMeasured` without either, and `UserError`.
    """
    recipe = data.recipe
    source, context = recipe.source_language, recipe.model.context
    path = recipe.evaluation.parallel.get(language)
    if path is not None:
        texts = _read_pairs(path, recipe.evaluation.parallel_sentences)
    elif recipe.languages[language].clone_of == source:
        texts = [(text, text) for text in _heldout_sentences(data, recipe.evaluation.parallel_sentences)]
    else:
        raise NotMeasured(f"no parallel sentences (evaluation.parallel.{language})")
    if len(texts) < 2:
        raise NotMeasured(f"found {len(texts)} parallel sentences for '{language}'")
    encode = data.clone_tokenizer.encode
    return [(encode(a, source)[:context], encode(b, language)[:context]) for a, b in texts]


def _heldout_sentences(data: PreparedData, count: int) -> list[str]:
    """The first different sentences of held-out source text that fit into the context."""
    store = data.heldout(data.recipe.source_language)
    found: dict[str, None] = {}
    begin = 0
    for length in store.lengths[:].tolist():
        document = data.tokenizer.decode(store.tokens[begin : begin + length - 1])
        begin += length
        for sentence in _SENTENCE_END.split(document):
            text = " ".join(sentence.split())
            if _SHORTEST <= len(data.tokenizer.encode(text)) <= data.recipe.model.context:
                found.setdefault(text)
            if len(found) == count:
                return list(found)
    return list(found)


def _read_pairs(path: Path, count: int) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"evaluation.parallel: '{path}' cannot be read ({error}); expected 'source<tab>translation' lines"
        ) from None
    pairs = []
    for number, line in enumerate(filter(None, lines), start=1):
        source, tab, target = line.partition("\t")
        if not tab or not source.strip() or not target.strip():
            raise UserError(f"{path}, line {number}: found {line[:60]!r}; expected 'source<tab>translation'")
        pairs.append((source.strip(), target.strip()))
    return pairs[:count]
