"""How fast data is prepared and read, beside what else does the same work, in processor time.

Processor time, children included, because it does not depend on what else the machine does. Each figure is the best
of several repeats.
"""

import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prealign.config import Recipe
from prealign.data.loader import Located, StageDataset
from prealign.data.mixture import Phase
from prealign.data.prepared import PreparedData
from prealign.data.sequences import TokenStream
from prealign.data.switching import IGNORED
from prealign.errors import UserError
from prealign.lexicon.compiled import FORMS
from prealign.preparation.text_stores import build_stores
from prealign.preparation.word_counts import count_words
from prealign.processes import cores
from prealign.stores.codeswitch_map import OWN_CAPITALS, WRITINGS, build_codeswitch_map
from prealign.stores.sentences import sentence_marks
from prealign.stores.token_store import TokenStore
from prealign.stores.word_map import WordMap
from prealign.text.reading import ReadCounts, read_documents

REPEATS = 5
MICRO_BATCHES = (1, 8, 64)
STEP = 64
"""Sequences of a step on one rank."""


def measure_preparation(recipe: Recipe, data: PreparedData, megabytes: float) -> dict[str, Any]:
    """Prepare up to ``megabytes`` of the source language's text anew, in a temporary folder; megabytes of text per
    second of processor time for each part of the work, and their ratio to tiktoken's ``encode_ordinary_batch``."""
    text = recipe.languages[recipe.source_language].text
    assert text is not None
    if text.store:
        raise UserError(
            f"languages.{recipe.source_language}.text.store: found tokens; expected text, whose preparation is measured"
        )
    assert data.whole_lexicon is not None

    def read() -> list[str]:
        documents, size = [], 0
        for document in read_documents(text, "text", recipe.data.invalid_utf8, ReadCounts()):
            documents.append(document)
            size += len(document.encode())
            if size >= megabytes * 1e6:
                break
        return documents

    documents = read()  # imports what reading needs
    size = sum(len(document.encode()) for document in documents)
    tokenizer, lexicon = data.tokenizer, data.whole_lexicon
    marks = sentence_marks(tokenizer)
    seconds: dict[str, tuple[float, float]] = {}
    bytes_per_token = {}

    def timed(name: str, work: Callable[[], Any]) -> None:
        wall, spent = time.perf_counter(), _processor_seconds()
        work()
        found = (_processor_seconds() - spent, time.perf_counter() - wall)
        seconds[name] = min(seconds.get(name, found), found)

    for _ in range(3):
        timed("tiktoken_encode_ordinary_batch", lambda: tokenizer.encode_ordinary_batch(documents, cores()))
        timed("read", read)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            timed(
                "tokens_and_word_map",
                lambda: build_stores(documents, folder, tokenizer, recipe.vocab_size, 0, lambda digest: "train"),  # noqa: B023
            )
            store, words = TokenStore(folder / "train"), WordMap(folder / "train.words")
            timed("code_switch_map", lambda: build_codeswitch_map(folder / "train.cs", store, words, lexicon, marks))  # noqa: B023
            timed("word_counts", lambda: list(count_words(store, words, tokenizer, folder)))  # noqa: B023
            for suffix in ("bin", "words", "cs"):
                bytes_per_token[suffix] = (folder / f"train.{suffix}").stat().st_size / len(store)
    raw = seconds["tiktoken_encode_ordinary_batch"]
    whole = [sum(seconds[part][i] for part in ("read", "tokens_and_word_map", "code_switch_map")) for i in (0, 1)]
    return {
        "megabytes": size / 1e6,
        "cores": cores(),
        "megabytes_per_processor_second": {name: size / 1e6 / found[0] for name, found in seconds.items()},
        "megabytes_per_second": {name: size / 1e6 / found[1] for name, found in seconds.items()},
        "ratio_to_tiktoken": raw[0] / whole[0],
        "ratio_to_tiktoken_with_word_counts": raw[0] / (whole[0] + seconds["word_counts"][0]),
        "ratio_to_tiktoken_wall": raw[1] / whole[1],
        "bytes_per_token": bytes_per_token,
    }


def measure_loading(recipe: Recipe, data: PreparedData, samples: int) -> dict[str, Any]:
    """Tokens per second and core of `StageDataset`'s items by micro-batch size, code-switched and not, and of
    Megatron's ``GPTDataset`` and a loop over tokens in Python, on the source language's store."""
    number = list(recipe.languages).index(recipe.source_language)
    context = recipe.model.context
    result: dict[str, Any] = {"context": context, "ratio": recipe.codeswitch.ratio}
    for name, switched in (("code_switched", True), ("plain", False)):
        stream = data.streams(code_switch=switched)[number]
        dataset = StageDataset([stream], Phase((samples,), (0,), 5), seed=1)
        located = dataset.locate(np.arange(samples))
        for rows in MICRO_BATCHES:
            parts = [Located(*(c[first : first + STEP] for c in located)) for first in range(0, samples, STEP)]
            rates = result.setdefault(f"{name}_tokens_per_second_by_micro_batch_size", {})
            rates[str(rows)] = _rate(partial(_read, dataset, parts, rows), samples * context)
        alone = [Located(*(c[first : first + 1] for c in located)) for first in range(min(samples, 512))]
        result[f"{name}_tokens_per_second_one_row_a_step"] = _rate(
            partial(_read, dataset, alone, 1), len(alone) * context
        )
        if switched:
            few = located.window[: max(1, samples // 20)].tolist()
            result["python_loop_tokens_per_second"] = _rate(
                partial(_loop, stream, few),
                len(few) * context,
            )
    result["megatron_gpt_dataset_tokens_per_second"] = _megatron(recipe, data, samples)
    return result


def _loop(stream: TokenStream, windows: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [python_loop(stream, window, random.Random(1)) for window in windows]


def python_loop(stream: TokenStream, window: int, draw: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of a window, token by token, as a collator written in plain Python makes them: the words that
    have a translation are given, the draw and the splicing are done here."""
    switching = stream.switching
    if switching is None:
        raise ValueError("the stream is not code-switched")
    begin, context, lexicon = window * stream.context, stream.context, switching.switcher.lexicon
    tokens = stream.store.tokens[begin : begin + context + 1].tolist()
    starts, ends, ordinal, _ = switching.words.between(begin, begin + len(tokens) - 1)
    values = switching.values.read(np.array([ordinal]), np.array([len(starts)])).tolist()
    word_at = {start: (end, value) for start, end, value in zip(starts.tolist(), ends.tolist(), values)}
    inputs: list[int] = []
    targets: list[int] = []
    position = 0
    while position < len(tokens) - 1:
        end, value = word_at.get(position, (0, 0))
        if value and draw.random() < switching.switcher.ratio:
            ranges = [(a, b) for a, b in lexicon.translation_offsets[(value - 1) // WRITINGS].tolist() if b > a]
            if ranges:
                surface = lexicon.translations[draw.randrange(*draw.choice(ranges))]
                writing = (value - 1) % WRITINGS
                if writing >= OWN_CAPITALS:
                    writing = 2 * (int(lexicon.usual_form[surface]) // 2) + writing % 2
                chosen = FORMS * int(surface) + writing
                new = lexicon.form_tokens[lexicon.form_offsets[chosen] : lexicon.form_offsets[chosen + 1]].tolist()
                inputs += new
                targets += [IGNORED] * (len(new) - 1) + [tokens[end]]
                position = end
                continue
        inputs.append(tokens[position])
        targets.append(tokens[position + 1])
        position += 1
    return np.array(inputs[:context], np.int64), np.array(targets[:context], np.int64)


class _MegatronTokenizer:
    """What `GPTDataset` asks of a tokenizer."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.eod = self.eos = vocab_size - 1
        self.pad = -1
        self.special_tokens_dict: dict[str, int] = {}
        self.unique_identifiers = {"vocab_size": vocab_size}


def _megatron(recipe: Recipe, data: PreparedData, samples: int) -> float | str:
    """Tokens per second of ``GPTDataset.__getitem__`` on the same store, or why there is no such number."""
    try:
        from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
        from megatron.core.datasets.indexed_dataset import IndexedDataset
        from megatron.core.datasets.utils import Split
    except ImportError as error:
        return f"not measured: {error} (pip install --no-deps megatron-core)"
    prefix = str(data.artefacts[recipe.source_language].folder / "train")
    with tempfile.TemporaryDirectory() as cache:
        config = GPTDatasetConfig(
            random_seed=1,
            sequence_length=recipe.model.context,
            blend=([prefix], None),
            split="1,0,0",
            tokenizer=_MegatronTokenizer(recipe.vocab_size),
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
            path_to_cache=cache,
        )
        indexed = IndexedDataset(prefix)
        documents = np.arange(len(indexed.sequence_lengths), dtype=np.int32)
        dataset = GPTDataset(indexed, prefix, documents, samples, Split.train, config)
        return _rate(lambda: [dataset[number] for number in range(samples)], samples * recipe.model.context)


def _read(dataset: StageDataset, parts: list[Located], rows: int) -> None:
    for part in parts:
        dataset[part, rows]


def _rate(work: Callable[[], Any], tokens: int) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return tokens / best


def _processor_seconds() -> float:
    """Of this process, in nanoseconds' steps, and of its children that have ended, in those of the kernel's clock."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system
