"""Where sentences start, by tokens: what follows the end of a document, of a paragraph, or ``.``, ``!``, ``?`` and the
like. A quotation mark or bracket in between changes nothing."""

from enum import IntEnum

import numpy as np

from prealign.text.tokenizer import Tokenizer

LOOK_BACK = 6
"""Tokens looked at before a word."""
_ENDS = tuple(".!?…:。！？؟۔।")
_BETWEEN = " \t\n\r\u00a0\"'()[]{}<>*_“”„‟‘’‚‛«»‹›「」『』（）¿¡"


class Before(IntEnum):
    """What a token says of the word behind it."""

    WITHIN = 0
    """A sentence goes on."""
    START = 1
    """A sentence starts."""
    UNKNOWN = 2
    """The token before it decides."""
    LINE = 3
    """A line ends: the token before it decides, which starts a sentence if it is another of these."""


def sentence_marks(tokenizer: Tokenizer) -> np.ndarray:
    """`Before` of each token id, uint8."""
    marks = np.empty(tokenizer.vocab_size, np.uint8)
    for token in range(tokenizer.vocab_size):
        text = tokenizer.token_bytes(token).decode("utf-8", "replace")
        bare = text.rstrip(_BETWEEN)
        if token == tokenizer.end_of_document or text.count("\n") > 1 or bare.endswith(_ENDS):
            marks[token] = Before.START
        elif bare:
            marks[token] = Before.WITHIN
        else:
            marks[token] = Before.LINE if "\n" in text else Before.UNKNOWN
    return marks


def start_sentences(tokens: np.ndarray, places: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Which of the words at ``places`` of ``tokens`` start a sentence, bool; the first token starts one."""
    known = np.full(len(places), Before.UNKNOWN, np.uint8)
    for back in range(1, LOOK_BACK + 1):
        open_ = np.flatnonzero(known >= Before.UNKNOWN)
        before = places[open_] - back
        found = np.where(before < 0, np.uint8(Before.START), marks[tokens[np.maximum(before, 0)]])
        found[(found == Before.LINE) & (known[open_] == Before.LINE)] = Before.START
        known[open_] = found
    return known == Before.START
