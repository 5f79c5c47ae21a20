"""Readers of dictionaries on disk, one file a format."""

from prealign.lexicon.dictionaries.opening import BAD_LINE
from prealign.lexicon.dictionaries.reading import Pair, dictionary_files, read_dictionary

__all__ = ["BAD_LINE", "Pair", "dictionary_files", "read_dictionary"]
