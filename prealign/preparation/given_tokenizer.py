"""A tokenizer that a recipe gives in place of training one: a `.tiktoken` file, or a folder of an imported one."""

from pathlib import Path
from typing import Any

from prealign.artefacts import InputHashes
from prealign.config.tokenizer import TokenizerConfig
from prealign.errors import UserError
from prealign.text.tokenizer import WORD_PATTERN, Tokenizer, read_ranks


def given_inputs(settings: TokenizerConfig, hashes: InputHashes) -> dict[str, Any]:
    """What the tokenizer of `ranks` depends on. Raises `UserError` where there is no such file."""
    path = _ranks(settings)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        return {"files": dict(zip([file.name for file in files], hashes.of(files))), "pattern": settings.pattern}
    if not path.is_file():
        raise UserError(
            f"data.tokenizer.ranks: no such file '{path}'; expected a .tiktoken file, or a folder that "
            f"launchers/import_hf.py wrote"
        )
    return {"ranks": hashes.of([path])[0], "pattern": settings.pattern or WORD_PATTERN}


def given_tokenizer(settings: TokenizerConfig) -> Tokenizer:
    """The tokenizer of `ranks`, with the recipe's pattern where it has one. Raises `UserError`."""
    path = _ranks(settings)
    if path.is_dir():
        return Tokenizer.load(path, settings.pattern)
    return Tokenizer(read_ranks(path), settings.pattern or WORD_PATTERN)


def _ranks(settings: TokenizerConfig) -> Path:
    if settings.ranks is None:
        raise ValueError("the recipe gives no ranks")
    return settings.ranks
