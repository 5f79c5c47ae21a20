"""A trained model as a folder that stock `transformers` loads, with no code of ours."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from prealign.artefacts import replace_folder
from prealign.config import Recipe
from prealign.data.prepared import PreparedData
from prealign.distributed.piece_files import save_tensors
from prealign.errors import UserError
from prealign.evaluation.facts import FactsTest
from prealign.evaluation.loading import FoundWeights
from prealign.interop.architectures import Architecture, architecture_of
from prealign.interop.card import model_card
from prealign.interop.hf_config import MARK
from prealign.interop.lm_eval_tasks import write_tasks
from prealign.interop.tokenizer import check_tokenizer, write_tokenizer
from prealign.objectives.joint import JointModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def export(
    run: Path, recipe: Recipe, data: PreparedData, found: FoundWeights, folder: Path, dtype: str, max_shard_bytes: int
) -> None:
    """Write weights, configuration, tokenizers, a model card and, of a run with facts, tasks for `lm_eval`; a folder
    that an earlier call wrote is replaced.

    ``run``: the run's folder. ``dtype``: of `DTYPES`. ``max_shard_bytes``: of a file of weights, which is what is held
    in memory. Raises `UserError`.
    """
    if folder.exists() and not (folder / MARK).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"--out: '{folder}' is there and holds no export; choose another folder")
    architecture = architecture_of(recipe.model, recipe.padded_vocab_size)
    check_tokenizer(data.tokenizer)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(partial, run, recipe, data, found, architecture, DTYPES[dtype], max_shard_bytes)
        replace_folder(partial, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--out: '{folder}' cannot be written ({reason}); free space, or choose another folder"
        ) from None


def _write(
    folder: Path,
    run: Path,
    recipe: Recipe,
    data: PreparedData,
    found: FoundWeights,
    architecture: Architecture,
    dtype: torch.dtype,
    max_shard_bytes: int,
) -> None:
    _write_weights(folder, _tensors(recipe, found, architecture, dtype), max_shard_bytes)
    end = data.tokenizer.end_of_document
    settings: dict[str, Any] = {
        "architectures": [architecture.name],
        "model_type": architecture.model_type,
        "bos_token_id": end,
        "eos_token_id": end,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    _write_json(folder / "config.json", settings | architecture.config)
    ends = [end, *(end + recipe.token_offset(name) for name in recipe.clones)]
    _write_json(folder / "generation_config.json", {"bos_token_id": end, "eos_token_id": ends, "do_sample": True})
    write_tokenizer(folder, data.tokenizer, 0, recipe.model.context)
    for name in recipe.clones:
        write_tokenizer(folder / f"tokenizer_{name}", data.tokenizer, recipe.token_offset(name), recipe.model.context)
    shutil.copyfile(run / "recipe.yaml", folder / "recipe.yaml")
    blocks = {"vocab_blocks": 1 + len(recipe.clones)}
    _write_json(
        folder / MARK, {"run": recipe.name, "stage": found.stage, "step": found.step, "data": found.data} | blocks
    )
    test = FactsTest.of(data) if found.stage == "pretrain" else None
    tasks = write_tasks(folder, test, found.step) if test is not None else {}
    (folder / "README.md").write_text(model_card(recipe, run, found, architecture, tasks), encoding="utf-8")


def _tensors(
    recipe: Recipe, found: FoundWeights, architecture: Architecture, dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    with torch.device("meta"):
        model = JointModel(recipe.model_copy(update={"model": recipe.model.model_copy(update={"attention": "sdpa"})}))
    for name, parameter in model.named_parameters():
        value = found.value(name, parameter.shape).to(dtype)
        for hf_name, tensor in architecture.place(name).split(value).items():
            yield hf_name, tensor.contiguous()


def _write_weights(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]], max_shard_bytes: int) -> None:
    """One file, or several with an index, as `transformers` writes them."""
    files: list[list[str]] = []
    pending: dict[str, torch.Tensor] = {}
    total = 0

    def flush() -> None:
        save_tensors(pending, folder / f"{len(files)}.part")
        files.append(list(pending))
        pending.clear()

    for name, tensor in tensors:
        if pending and sum(part.nbytes for part in pending.values()) + tensor.nbytes > max_shard_bytes:
            flush()
        pending[name] = tensor
        total += tensor.nbytes
    flush()
    if len(files) == 1:
        (folder / "0.part").rename(folder / "model.safetensors")
        return
    index: dict[str, str] = {}
    for number, names in enumerate(files):
        name = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
        (folder / f"{number}.part").rename(folder / name)
        index |= dict.fromkeys(names, name)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
