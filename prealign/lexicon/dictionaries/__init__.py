"""Readers of dictionaries on disk, one file a format."""

from prealign.lexicon.dictionaries.reading import Pair, dictionary_files, read_dictionary

__all__ = ["Pair", "dictionary_files", "read_dictionary"]
