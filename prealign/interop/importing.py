"""A Hugging Face checkpoint made ready for a recipe: the keys that fit it, its tokenizer."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prealign.artefacts import replace_folder
from prealign.errors import UserError
from prealign.interop.hf_config import HuggingFaceModel, check_rows, read_model
from prealign.interop.hf_tokenizer import read_tokenizer
from prealign.interop.hub import download
from prealign.interop.tokenizer import refuse_other_ids
from prealign.text.tokenizer import Tokenizer

RECIPE, TOKENIZER = "model.yaml", "tokenizer"
"""What `write` makes: keys of a recipe, for its `base`, and the folder that they name as `data.tokenizer.ranks`."""


@dataclass(frozen=True)
class Import:
    """A checkpoint; ``source`` is what `model.init` calls it, ``tokenizer`` None where it has none."""

    source: str
    model: HuggingFaceModel
    tokenizer: Tokenizer | None

    def recipe(self, tokenizer_folder: Path | None = None) -> str:
        """The keys of a recipe that fit, as YAML."""
        rows = self.model.rows
        model = {"init": f"hf:{self.source}"} | self.model.section
        values: dict[str, Any] = {"model": model}
        if self.model.vocab_blocks == 1:
            model["vocab_multiple"] = rows  # as many rows as it has: the softmax is over the same
        if self.tokenizer is not None:
            keys: dict[str, Any] = {"vocab_size": self.tokenizer.vocab_size}
            if tokenizer_folder is not None:
                keys["ranks"] = str(tokenizer_folder)
            if self.tokenizer.end_of_document != self.tokenizer.vocab_size - 1:
                keys["end_of_document"] = self.tokenizer.end_of_document
            values["data"] = {"tokenizer": keys}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10_000)


def read_import(checkpoint: str, end: str | None) -> Import:
    """Read config and tokenizer of a checkpoint (`download`); ``end`` names its end-of-document token. Raises
    `UserError`."""
    folder, source = download(checkpoint)
    model = read_model(folder)
    path = folder / "tokenizer.json"
    if not path.is_file() and end is None:
        return Import(source, model, None)
    tokenizer = read_tokenizer(path, end)
    refuse_other_ids(tokenizer, path)
    check_rows(model, tokenizer.vocab_size)
    return Import(source, model, tokenizer)


def write(found: Import, folder: Path) -> None:
    """Write `RECIPE` and, of a checkpoint that has one, `TOKENIZER`; what an earlier call wrote is replaced. Raises
    `UserError`."""
    if folder.exists() and not (folder / RECIPE).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"--out: '{folder}' is there and holds no import; choose another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if found.tokenizer is not None:
            (partial / TOKENIZER).mkdir()
            found.tokenizer.save(partial / TOKENIZER)
        text = found.recipe(folder.resolve() / TOKENIZER)
        (partial / RECIPE).write_text(text, encoding="utf-8")
        replace_folder(partial, folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"--out: '{folder}' cannot be written ({error.strerror}); choose another folder") from None
