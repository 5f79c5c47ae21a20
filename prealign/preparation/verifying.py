"""Every byte and every invariant of prepared data, checked."""

from collections.abc import Callable
from typing import Any

import numpy as np

from prealign.artefacts import Artefact, open_artefact
from prealign.data.contents import SPLITS, WAYPOINTS
from prealign.data.prepared import FACTS, PreparedData
from prealign.errors import UserError
from prealign.facts.checking import check_facts
from prealign.lexicon.compiled import FORMS, CompiledLexicon
from prealign.processes import ordered_map
from prealign.stores.codeswitch_map import WRITINGS, CodeSwitchMap, forms_of
from prealign.stores.spans import chunks, words_of_chunk
from prealign.stores.token_store import TokenStore
from prealign.stores.word_map import WordMap

_DOCUMENTS = 1 << 15
"""Looked at together; each can lie on a page of its own."""


def verify_data(data: PreparedData, say: Callable[[str], None]) -> None:
    """Hash every file again, then check what the files say against each other. Raises `UserError` for the first
    thing that is wrong; ``say`` is called with one line per artefact."""
    # what the table was made from is not opened for training
    folders = {name: data.recipe.data.dir / name for name in WAYPOINTS}
    waypoints = {name: open_artefact(folders[name], WAYPOINTS[name]) for name in folders if folders[name].exists()}
    for name, artefact in (data.artefacts | waypoints).items():
        artefact.verify()
        if name in data.recipe.languages:
            for split in SPLITS:
                _check_store(data, name, artefact, split)
        if name == "lexicon" and data.whole_lexicon is not None:
            _check_lexicon(artefact, data.whole_lexicon, data.recipe.vocab_size)
        if name == "codeswitch":
            _check_codeswitch(data, artefact)
        if name == FACTS:
            check_facts(data)
        files = ", ".join(f"{file} {entry['bytes']:,}" for file, entry in artefact.files.items())
        say(f"whole  {artefact.folder} ({artefact.kind}): {files}")


def _expect(artefact: Artefact, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise UserError(
            f"{artefact.folder}: {what}: found {found}; expected {expected}; move {artefact.folder} away and run "
            "launchers/prepare.py again"
        )


def _check_store(data: PreparedData, name: str, artefact: Artefact, split: str) -> None:
    store = TokenStore(artefact.folder / split)
    words = WordMap(artefact.folder / f"{split}.words")
    block, shift = data.recipe.data.tokenizer.vocab_size, data.recipe.token_offset(name)
    last, end_of_document = shift + block - 1, shift + data.tokenizer.end_of_document

    def check(chunk: tuple[int, int]) -> tuple[int, int, int, int]:
        tokens, starts, _, ordinal = words_of_chunk(store, words, *chunk)
        tokens = tokens[: chunk[1] - chunk[0]]
        outside = np.count_nonzero((tokens < shift) | (tokens > last))
        return int(outside), int(np.count_nonzero(tokens == end_of_document)), len(starts), ordinal

    outside = ends = seen = 0
    for some, documents, count, ordinal in ordered_map(check, chunks(store)):
        outside, ends = outside + some, ends + documents
        if count:
            _expect(artefact, f"{split}.words: words before a chunk", ordinal, seen)
        seen += count
    facts = artefact.facts
    _expect(artefact, f"{split}.bin: token ids outside {shift}..{last}", outside, 0)
    _expect(artefact, f"{split}.bin: tokens", len(store), facts[f"{split}_tokens"])
    _expect(artefact, f"{split}.bin: end-of-document tokens", ends, facts[f"{split}_documents"])
    _expect(artefact, f"{split}.idx: documents", store.documents, facts[f"{split}_documents"])
    _expect(
        artefact,
        f"{split}.idx: tokens",
        sum(int(shard.lengths.sum(dtype=np.int64)) for shard in store.parts),
        len(store),
    )
    elsewhere = 0
    for shard in store.parts:
        ends_at = np.cumsum(shard.lengths, dtype=np.int64) - 1
        for first in range(0, len(ends_at), _DOCUMENTS):
            elsewhere += int((shard.tokens[ends_at[first : first + _DOCUMENTS]] != end_of_document).sum())
            store.release()
    _expect(artefact, f"{split}.idx: documents that end elsewhere", elsewhere, 0)
    _expect(artefact, f"{split}.words: tokens", words.tokens, len(store))
    _expect(artefact, f"{split}.words: words", words.words, facts[f"{split}_words"])
    _expect(artefact, f"{split}.words: words that start", seen, words.words)


def _check_lexicon(artefact: Artefact, lexicon: CompiledLexicon, vocab_size: int) -> None:
    surfaces = len(lexicon.surface_language)
    offsets, translations = lexicon.form_offsets, lexicon.translations
    _expect(artefact, "form_offsets: forms", len(offsets) - 1, FORMS * surfaces)
    _expect(artefact, "form_offsets: empty or reversed forms", int((np.diff(offsets) < 1).sum()), 0)
    _expect(artefact, "form_tokens: tokens", len(lexicon.form_tokens), int(offsets[-1]))
    tokens = lexicon.form_tokens
    _expect(artefact, "form_tokens: outside the vocabulary", int(((tokens < 0) | (tokens >= vocab_size)).sum()), 0)
    _expect(artefact, "counts: entries", len(lexicon), artefact.facts["entries"])
    ranges = lexicon.translation_offsets
    _expect(artefact, "translation_offsets: reversed ranges", int((ranges[..., 1] < ranges[..., 0]).sum()), 0)
    _expect(artefact, "translations: count", len(translations), artefact.facts["translations"])
    outside = int(((translations < len(lexicon)) | (translations >= surfaces)).sum())
    _expect(artefact, "translations: surfaces that are none", outside, 0)


def _check_codeswitch(data: PreparedData, artefact: Artefact) -> None:
    """Every entry's tokens are the tokens of its word."""
    source = data.artefacts[data.recipe.source_language]
    store, words = TokenStore(source.folder / "train"), WordMap(source.folder / "train.words")
    forms = CodeSwitchMap(artefact.folder / "train.cs", words.words)
    lexicon = data.whole_lexicon
    assert lexicon is not None

    def check(chunk: tuple[int, int]) -> tuple[int, int]:
        tokens, starts, ends, ordinal = words_of_chunk(store, words, *chunk)
        entries = forms.read(np.array([ordinal]), np.array([len(starts)])).astype(np.int64)
        forms.release()
        known = np.flatnonzero(entries)
        if len(known) and entries.max() > WRITINGS * len(lexicon):
            return len(known), len(known)
        form = forms_of(entries[known], lexicon)
        begin = lexicon.form_offsets[form]
        lengths = lexicon.form_offsets[form + 1] - begin
        wrong = lengths != ends[known] - starts[known]
        for place in range(int(lengths.max(initial=0))):
            inside = np.flatnonzero(~wrong & (place < lengths))
            wrong[inside] = tokens[starts[known[inside]] + place] != lexicon.form_tokens[begin[inside] + place]
        return len(known), int(wrong.sum())

    known = wrong = 0
    for count, bad in ordered_map(check, chunks(store)):
        known, wrong = known + count, wrong + bad
    _expect(artefact, "train.cs: words whose entry is another word", wrong, 0)
    _expect(artefact, "train.cs: words in the table", known, artefact.facts["in_table"])
