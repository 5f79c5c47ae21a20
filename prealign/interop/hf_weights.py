"""Weights of a Hugging Face checkpoint as those of our model, read tensor by tensor (``model.init: hf:FOLDER``)."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from prealign.config import Recipe
from prealign.errors import UserError
from prealign.interop.architectures import architecture_of
from prealign.interop.hf_config import HuggingFaceModel, check_model, check_rows, read_model
from prealign.interop.new_rows import NewRows
from prealign.model.initialisation import initial_value
from prealign.model.shapes import VOCABULARY
from prealign.objectives.joint import JointModel

_DTYPES = ("F64", "F32", "F16", "BF16")
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_NAMED = 3
"""Tensors that an error names."""
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""Ends of names of what older checkpoints keep beside weights: masks and frequencies, which follow from the config."""


class HuggingFaceWeights:
    """The first weights of a run. What is there is checked at once, from the heads of the files; `value` then reads
    what one parameter is made of, so that no more than that is in memory."""

    def __init__(self, folder: Path, recipe: Recipe, new_rows: NewRows | None = None) -> None:
        """``new_rows``: of the tokens of `data.tokenizer.extension`; None where there are none, or the checkpoint has
        them. Raises `UserError` where folder and recipe do not fit."""
        self.found = read_model(folder)
        check_model(self.found, recipe.model)
        _check_blocks(self.found, recipe, new_rows)
        self._block = recipe.data.tokenizer.vocab_size if new_rows is None else new_rows.first
        check_rows(self.found, self._block)
        self._recipe = recipe
        self._new_rows = new_rows
        self._architecture = architecture_of(recipe.model, self.found.rows)
        self._files = _Files(folder)
        self._files.check(self._expected_shapes(), tied=recipe.model.tied_embeddings)

    def value(self, name: str, shape: torch.Size) -> torch.Tensor:
        """The fp32 value of our parameter ``name``, ``shape`` as our model has it. Raises `UserError`."""
        place = self._architecture.place(name)
        value = place.join([self._files.read(each) for each in place.names])
        if name in VOCABULARY:
            return self._with_new_rows(name, value, shape)
        return value[: shape[0]].contiguous()  # of a table of positions, those of a shorter context

    def _expected_shapes(self) -> dict[str, list[int]]:
        """Names and shapes of the tensors that the checkpoint must have."""
        rows = {"gpt.embedding.positions.weight": self.found.model.context}
        plain = self._recipe.model.model_copy(update={"attention": "sdpa"})
        with torch.device("meta"):
            model = JointModel(self._recipe.model_copy(update={"model": plain}))
        shapes: dict[str, list[int]] = {}
        for name, parameter in model.named_parameters():
            first = self.found.rows if name in VOCABULARY else rows.get(name, parameter.shape[0])
            whole = torch.empty(first, *parameter.shape[1:], device="meta")
            shapes |= {each: list(part.shape) for each, part in self._architecture.place(name).split(whole).items()}
        return shapes

    def _with_new_rows(self, name: str, value: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """The table with the rows that our vocabulary has beside the checkpoint's: of new tokens what `NewRows` says,
        of clones the mean of its rows and the noise of any initial weight, of padding the mean alone. A row at the mean
        takes no more than an average token's share of the softmax (Hewitt 2021); one of zeros may take all of it."""
        recipe, block = self._recipe, self._block
        if self._new_rows is None and self.found.vocab_blocks == 1 + len(recipe.clones):
            first_new = min(self.found.rows, shape[0])
        else:
            first_new = block
        if first_new == shape[0]:
            return value[: shape[0]].contiguous()
        table = initial_value(name, shape, recipe)
        table[recipe.vocab_size :] = 0.0
        table += value[:block].mean(dim=0)
        table[:first_new] = value[:first_new]
        if self._new_rows is not None:
            table[block : block + self._new_rows.tokens] = self._new_rows.of(value[:block])
        return table


def _check_blocks(found: HuggingFaceModel, recipe: Recipe, new_rows: NewRows | None) -> None:
    """An export of ours has the clone languages of the recipe, or none."""
    if found.vocab_blocks not in (1, 1 + len(recipe.clones)):
        raise UserError(
            f"model.init: {found.folder} was exported with {found.vocab_blocks - 1} clone languages; the recipe has "
            f"{len(recipe.clones)}; expected none or as many"
        )
    if found.vocab_blocks > 1 and new_rows is not None:
        raise UserError(
            f"data.tokenizer.extension: {found.folder} was exported with clone languages, whose token ids lie where "
            f"new ones would; expected an export without clones"
        )


class _Files:
    """The safetensors files of a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file_of: dict[str, Path] = {}
        self._shapes: dict[str, list[int]] = {}
        self._prefix = ""
        for path in _paths(folder):
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - it is no mapping
                        part = file.get_slice(name)
                        self._add(name, path, part.get_shape(), part.get_dtype())
            except FileNotFoundError:
                raise UserError(f"{path}: no such file, though {_INDEX} names it; download it again") from None
            except (OSError, SafetensorError) as error:
                raise UserError(f"{path}: cannot be read ({error}); remove it and download it again") from None

    def _add(self, name: str, path: Path, shape: list[int], dtype: str) -> None:
        if name.endswith(_BUFFERS):
            return
        if dtype not in _DTYPES:
            raise UserError(f"{path}: tensor '{name}' is of type {dtype}; expected one of {', '.join(_DTYPES)}")
        self._file_of[name], self._shapes[name] = path, list(shape)

    def check(self, expected: dict[str, list[int]], tied: bool) -> None:
        """Raise `UserError` unless these tensors are there, of these shapes, and no others."""
        self._find_prefix(expected)
        expected = {self._own(name): shape for name, shape in expected.items()}
        if missing := [name for name in expected if name not in self._shapes]:
            raise UserError(f"{self.folder}: found no tensor {_some(missing)}; download it again, or mend config.json")
        known = {*expected, "lm_head.weight"} if tied else expected.keys()  # a copy of the tied matrix
        if extra := [name for name in self._shapes if name not in known]:
            raise UserError(
                f"{self.folder}: found tensors that this kind of model does not have: {_some(extra)}; expected "
                f"those of its config.json alone"
            )
        for name, shape in expected.items():
            if self._shapes[name] != shape:
                raise UserError(
                    f"{self._file_of[name]}: tensor '{name}' has shape {self._shapes[name]}; expected {shape} by "
                    f"config.json"
                )

    def _find_prefix(self, expected: dict[str, list[int]]) -> None:
        """Of a model without its head names are shorter: ``wte.weight``, not ``transformer.wte.weight``."""
        prefix = next(name.partition(".")[0] + "." for name in expected if name != "lm_head.weight")
        if not any(name.startswith(prefix) for name in self._shapes):
            self._prefix = prefix

    def _own(self, name: str) -> str:
        return name.removeprefix(self._prefix)

    def read(self, name: str) -> torch.Tensor:
        """A tensor, in fp32."""
        path = self._file_of[self._own(name)]
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(self._own(name)).to(torch.float32)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read ({error}); remove it and download it again") from None


def _paths(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if index.is_file():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return [folder / name for name in sorted(set(names))]
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f"{index}: not an index of safetensors files; download it again") from None
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if pickled := sorted(folder.glob("*.bin")):
        raise UserError(
            f'{folder}: found {pickled[0].name} and no {_SINGLE}; convert it: python -c "from transformers import '
            f"AutoModelForCausalLM as M; M.from_pretrained('{folder}').save_pretrained('{folder}')\""
        )
    raise UserError(f"{folder}: found no {_SINGLE} and no {_INDEX}; expected the weights of a checkpoint")


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(f"'{name}'" for name in names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
