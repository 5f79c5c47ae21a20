"""Token stores of facts: one for every period and language, whose samples hold its statements amid ordinary text.

A statement never lies across two samples, and a store has exactly as many samples as the period reads of it, so each
statement is read exactly once. What statements leave of a sample is text of the language, in front of them and behind.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path

import numpy as np

from prealign.config.facts import FactsConfig, statement_room
from prealign.errors import UserError
from prealign.facts.drawing import Fact
from prealign.facts.statements import Statements
from prealign.lexicon.compiled import CompiledLexicon
from prealign.random_streams import Draw, mix, permute
from prealign.stores.codeswitch_map import build_codeswitch_map
from prealign.stores.sentences import sentence_marks
from prealign.stores.token_store import StoreWriter, TokenStore
from prealign.stores.word_map import WordMap, WordMapWriter
from prealign.text.words import word_spans


@dataclass(frozen=True)
class Passage:
    """Tokens of a sample and the words in them (``starts``, ``ends``: indices into ``tokens``)."""

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def write_statements(statements: Statements, facts: list[Fact], period: int, language: str) -> list[Passage]:
    """All statements of a period in a language, as they are trained on, in the order in which they fill samples.

    ``facts``: of this period and language.
    """
    settings = statements.recipe.injected_facts
    written = [
        _statement(statements, fact, language, repetition) for fact in facts for repetition in range(fact.frequency)
    ]
    number = list(statements.recipe.languages).index(language)
    order = permute(np.arange(len(written)), len(written), int(mix(settings.seed, Draw.FACTS_ORDER, number, period)))
    return [written[place] for place in order]


def build_period(
    folder: Path,
    written: list[Passage],
    statements: Statements,
    text: Path,
    period: int,
    language: str,
    lexicon: CompiledLexicon | None,
) -> None:
    """Write ``train`` store and word map, and with a ``lexicon`` the code-switch map.

    ``written``: the statements, which fit (`check_room`). ``text``: the folder with the language's own store, which
    fills samples up.
    """
    recipe = statements.recipe
    settings = recipe.injected_facts
    context = recipe.model.context
    number = list(recipe.languages).index(language)
    cuts = pack([len(piece.tokens) for piece in written], settings.windows(context), statement_room(context))
    assert cuts is not None
    filler = _Filler(TokenStore(text / "train"), WordMap(text / "train.words"))
    end = statements.end_of_document(language)

    folder.mkdir()
    with StoreWriter(folder / "train", recipe.vocab_size) as store, WordMapWriter(folder / "train.words") as words:
        for window, (first, last) in enumerate(pairwise(cuts)):
            inside = written[first:last]
            room = context - sum(len(piece.tokens) for piece in inside)
            draw = int(mix(settings.seed, Draw.FACTS_ORDER, number, period, window))
            before, after = filler.pieces(draw, room // 2 - 1, room - room // 2)
            pieces = [Passage(np.append(before.tokens, end), before.starts, before.ends), *inside, after]
            store.append(
                np.concatenate([piece.tokens for piece in pieces]), np.array([len(piece.tokens) for piece in pieces])
            )
            for piece in pieces:
                words.append(len(piece.tokens), piece.starts, piece.ends)
    if lexicon is not None:
        build_codeswitch_map(
            folder / "train.cs",
            TokenStore(folder / "train"),
            WordMap(folder / "train.words"),
            lexicon,
            sentence_marks(statements.tokenizer.tokenizer),
        )


def _statement(statements: Statements, fact: Fact, language: str, repetition: int) -> Passage:
    """A statement as it is trained on, its end-of-document token included."""
    template = fact.template_of(repetition, statements.templates(fact))
    ids = statements.ids(fact, language, template)
    written = statements.text(fact, language, template)
    if language in statements.tokenizer.words:
        written = statements.tokenizer.words[language].to_clone(written)
    local = ids - statements.recipe.token_offset(language)
    starts, ends, _ = word_spans(written, statements.tokenizer.tokenizer.token_lengths[local])
    return Passage(np.append(ids, statements.end_of_document(language)), starts, ends)


def check_room(settings: FactsConfig, groups: list[list[Passage]], context: int) -> None:
    """Raise `UserError` where the statements of a period and language do not fit into the samples that they have."""
    lengths = [[len(piece.tokens) for piece in group] for group in groups]
    room, longest = statement_room(context), max(max(group) for group in lengths)
    if longest > room:
        raise UserError(
            f"facts: found a statement of {longest} tokens; expected at most {room} with model.context={context}; "
            f"raise it, or give shorter templates (facts.relations)"
        )

    def fit(tokens: int) -> bool:
        windows = settings.model_copy(update={"statement_tokens": tokens}).windows(context)
        return all(pack(group, windows, room) is not None for group in lengths)

    if not fit(settings.statement_tokens):
        needed = next(tokens for tokens in count(settings.statement_tokens + 1) if fit(tokens))
        raise UserError(
            f"facts.statement_tokens: found {settings.statement_tokens}; the statements have up to {longest} tokens "
            f"and need {needed} on average to fit into samples of {context}; set it to that"
        )


def pack(lengths: list[int], windows: int, room: int) -> list[int] | None:
    """Spread statements evenly over samples, in their order, at most ``room`` tokens in each: the first statement of
    every sample, and their number; None where they do not fit."""
    cuts = [0]
    for window in range(windows):
        end, used = cuts[-1], 0
        due = len(lengths) * (window + 1) // windows
        while end < due and used + lengths[end] <= room:
            used += lengths[end]
            end += 1
        cuts.append(end)
    return cuts if cuts[-1] == len(lengths) else None


@dataclass(frozen=True)
class _Filler:
    """Ordinary text of a language."""

    store: TokenStore
    words: WordMap

    def pieces(self, draw: int, *sizes: int) -> Iterator[Passage]:
        """Consecutive runs of so many tokens, from a drawn place on."""
        begin = draw % max(1, len(self.store) - sum(sizes))
        for size in sizes:
            end = min(begin + size, len(self.store))
            starts, ends, _, _ = self.words.between(begin, end)
            tokens = self.store.tokens[begin:end].astype(np.int64)
            # a text shorter than the piece is gone through again, without its words
            yield Passage(np.resize(tokens, size), starts, ends)
            begin = end % len(self.store)
