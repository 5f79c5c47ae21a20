"""Leakage (the paper's Table 3): how often do continuations of source-language text hold the target languages, and how
much of them?"""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import regex
import torch

from prealign.artefacts import open_artefact
from prealign.data.contents import WAYPOINTS
from prealign.data.prepared import PreparedData
from prealign.distributed.world import World
from prealign.evaluation.generation import sample
from prealign.evaluation.results import NotMeasured, wilson_interval
from prealign.lexicon.table import read_table
from prealign.objectives.joint import JointModel
from prealign.preparation.word_counts import read_counts
from prealign.random_streams import Draw, mix, permute

_WORD = regex.compile(r"[\p{L}\p{M}]+")
_EXAMPLES = 5
_ROWS = 128
"""Continuations that are sampled together on a rank."""

Detector = Callable[[np.ndarray], tuple[int, int]]
"""Of token ids (int64): how many tokens, letters or words are of a target language, and how many there are."""


def leakage(model: JointModel, data: PreparedData, world: World) -> dict[str, Any]:
    """Sample continuations of held-out prompts and count those that hold a target language.

    All ranks call it and share the samples. Per language and for ``any``: ``samples``, how many ``leaked``, their
    ``share`` with its 95 % Wilson interval, how it was found, and the first few as text; beside them what reproduces
    them: settings, and places and hash of the prompts. Per language also ``content``: what share of all sampled tokens
    (letters, words: ``unit``) is of it, with its standard error over samples, whose tokens are not independent. Raises
    `NotMeasured`.
    """
    recipe = data.recipe
    settings = recipe.evaluation.leakage
    if settings.prompt_tokens + settings.length > recipe.model.context:
        raise NotMeasured(
            f"evaluation.leakage: prompt_tokens {settings.prompt_tokens} and length {settings.length} do not fit into "
            f"model.context {recipe.model.context}"
        )
    found = {name: detector(data, name) for name in recipe.targets}
    places, prompts = draw_prompts(data)
    counts = torch.zeros((len(recipe.targets), len(prompts), 2), dtype=torch.int64, device=world.device)
    written: dict[int, np.ndarray] = {}
    for first in range(world.rank * _ROWS, len(prompts), _ROWS * world.world_size):
        numbers = np.arange(first, min(first + _ROWS, len(prompts)))
        batch = torch.from_numpy(prompts[numbers]).to(world.device)
        tokens = sample(
            model, batch, settings.length, settings.temperature, recipe.vocab_size, settings.seed, numbers
        ).cpu()
        for number, ids in zip(numbers.tolist(), tokens.numpy()):
            for row, (_, _, count) in enumerate(found.values()):
                of_it, in_all = count(ids)
                counts[row, number] = torch.tensor([of_it, in_all])
                if of_it:
                    written[number] = ids
    counted = world.sum(counts).cpu().numpy()
    hits = (counted[:, :, 0] > 0).astype(np.int64)
    result: dict[str, Any] = {
        name: _share(hits[row]) | {"found_by": how, "content": {"unit": unit} | _content(counted[row])}
        for row, (name, (how, unit, _)) in enumerate(found.items())
    }
    result["any"] = _share(hits.max(axis=0)) if len(hits) else _share(np.zeros(len(prompts), np.int64))
    shown = sorted(written)[:_EXAMPLES]
    result["examples"] = [
        {"sample": number, "text": data.clone_tokenizer.decode(np.concatenate((prompts[number], written[number])))}
        for number in shown
    ]
    result["decoding"] = settings.model_dump(mode="json")
    result["prompts"] = {
        "text": f"held-out '{recipe.source_language}'",
        "first_tokens": places.tolist(),
        "sha256": hashlib.sha256(prompts.astype("<i8").tobytes()).hexdigest(),
    }
    return result


def draw_prompts(data: PreparedData) -> tuple[np.ndarray, np.ndarray]:
    """Places (first tokens in the held-out store, ``[n]``) and tokens (int64 ``[n, prompt_tokens]``) of the prompts.

    They are drawn without repetition among consecutive pieces of the store, and again from the first where there are
    too few; no prompt has an end of a document inside. Raises `NotMeasured` where the text is shorter than a prompt.
    """
    recipe = data.recipe
    settings = recipe.evaluation.leakage
    store = data.heldout(recipe.source_language)
    size = settings.prompt_tokens
    pieces = store.tokens[: len(store) // size * size].astype(np.int64).reshape(-1, size)
    usable = np.flatnonzero((pieces != data.tokenizer.end_of_document).all(axis=1))
    if len(usable) == 0:
        raise NotMeasured(f"held-out text of '{recipe.source_language}' has no {size} tokens in a row")
    numbers = np.arange(settings.samples)
    key = int(mix(settings.seed, Draw.LEAKAGE))
    chosen = usable[permute(numbers % len(usable), len(usable), key)]
    return chosen * size, pieces[chosen]


def detector(data: PreparedData, language: str) -> tuple[str, str, Detector]:
    """How a language is recognised in continuations, in words, in what unit, and as a function.

    A clone: by its token ids, exactly. A language of another script than the source: by letters of that script. A
    language of the same script: by words of the alignment table's target side that do not occur in the source text,
    which finds less than there is. Raises `NotMeasured` for the last without a table.
    """
    recipe = data.recipe
    block = recipe.data.tokenizer.vocab_size
    if recipe.languages[language].clone_of is not None:
        first = recipe.token_offset(language)
        return "token ids", "tokens", lambda ids: (int(((ids >= first) & (ids < first + block)).sum()), len(ids))
    scripts = [
        script
        for script in recipe.languages[language].scripts
        if script not in recipe.languages[recipe.source_language].scripts
    ]

    def text(ids: np.ndarray) -> str:
        return data.tokenizer.decode(ids[ids < block])

    if scripts and recipe.languages[recipe.source_language].scripts:
        of_it = "".join(rf"\p{{Script={script}}}" for script in scripts)
        letters, every = regex.compile(f"[{of_it}]"), regex.compile(rf"[\p{{L}}\p{{M}}{of_it}]")

        def in_script(ids: np.ndarray) -> tuple[int, int]:
            written = text(ids)
            return len(letters.findall(written)), len(every.findall(written))

        return f"script {', '.join(scripts)}", "letters", in_script
    words = _foreign_words(data, language)

    def in_table(ids: np.ndarray) -> tuple[int, int]:
        whole = _WORD.findall(text(ids))[:-1]  # the last word may be the beginning of a longer one
        return sum(word.lower() in words for word in whole), len(whole)

    return f"{len(words)} words of the alignment table that the source text does not have", "words", in_table


def _foreign_words(data: PreparedData, language: str) -> set[str]:
    """Target words of the table, in lower case, that do not occur in the source training text."""
    if "lexicon" not in data.artefacts:
        raise NotMeasured(f"there is no alignment table to recognise '{language}' by")
    entries = read_table(data.artefacts["lexicon"].folder / "lexicon.jsonl")
    words = {word.lower() for entry in entries for word in entry.translations.get(language, [])}
    counts = open_artefact(data.recipe.data.dir / "words", WAYPOINTS["words"])
    return words - {word for word, _, _ in read_counts(counts.folder / "words.tsv")}


def _share(hits: np.ndarray) -> dict[str, Any]:
    leaked = int(hits.sum())
    return {
        "samples": len(hits),
        "leaked": leaked,
        "share": leaked / len(hits),
        "interval": wilson_interval(leaked, len(hits)),
    }


def _content(counts: np.ndarray) -> dict[str, Any]:
    """The share of all units that is of a language, from int64 ``[samples, 2]`` (of it, in all); its standard error is
    that of a ratio over samples."""
    samples, (found, of) = len(counts), counts.sum(axis=0).tolist()
    share = found / of if of else 0.0
    spread = float(((counts[:, 0] - share * counts[:, 1]) ** 2).sum())
    error = math.sqrt(spread * samples / max(1, samples - 1)) / of if of else 0.0
    return {"found": found, "of": of, "share": share, "standard_error": error}
