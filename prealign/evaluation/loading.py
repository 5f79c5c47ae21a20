"""Any checkpoint of a run as a plain model: whole on every process, in evaluation mode, without an optimizer."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prealign.config import Recipe, load_recipe
from prealign.config.recipe import StageName
from prealign.config.stage import STAGES, stage_of
from prealign.data.prepared import PreparedData
from prealign.distributed.engine import InitialValue
from prealign.distributed.manifest import damage, read_manifest
from prealign.distributed.piece_files import PieceReader
from prealign.distributed.pieces import WEIGHT, Piece
from prealign.distributed.tensor_parallel import Shard
from prealign.distributed.weights import Weights, read_state
from prealign.errors import UserError
from prealign.files import json_rows
from prealign.objectives.joint import JointModel

_WHOLE = ["parallel.tensor_parallel_size=1", "parallel.sequence_parallel_size=1", "parallel.compile=false"]
"""The model is whole on every process, however it was trained."""


@dataclass(frozen=True)
class FoundWeights:
    """Weights of one step of a run. ``origin``: the folder they are in. ``identity``: changes when its files do."""

    stage: StageName
    step: int
    origin: Path
    identity: str
    value: InitialValue
    data: str
    """Fingerprint of the prepared data that they were trained on."""


def find_weights(run: Path, stage: StageName | None = None, step: int | None = None) -> FoundWeights:
    """The weights of a step: a checkpoint, whose hashes are checked, or the stage's final weights. Raises `UserError`.

    Without ``stage`` the last one that has any; without ``step`` its end, or its newest checkpoint where it is still
    training.
    """
    names = [stage] if stage is not None else list(reversed(STAGES))
    stages = [name for name in names if _steps(run, name) or _is_finished(run, name)]
    if not stages:
        raise UserError(
            f"{run}: found no weights{f' of stage {stage!r}' if stage else ''}; expected {stage or 'pretrain'}/weights "
            f"or {stage or 'pretrain'}/checkpoints/step-N; give the folder of a run that has trained"
        )
    stage = stages[0]
    there = _steps(run, stage)
    if _is_finished(run, stage) and step in (None, _last_step(run, stage)):
        folder = run / stage / "weights"
        trained = (read_state(folder) or {}).get("data", "")
        return FoundWeights(stage, _last_step(run, stage), folder, _identity(folder), Weights(folder).value, trained)
    step = there[-1] if step is None else step
    if step not in there:
        ends = [*there, _last_step(run, stage)] if _is_finished(run, stage) else there
        raise UserError(
            f"--step: found {step}; {run / stage} has steps {sorted(set(ends))}; give one of them "
            f"(checkpoint.keep_every keeps more)"
        )
    folder = run / stage / "checkpoints" / f"step-{step}"
    manifest = _whole_manifest(folder)
    trained = manifest["state"].get("data", "")
    return FoundWeights(stage, step, folder, _identity(folder), _checkpoint_value(folder, manifest), trained)


def recipe_of_run(folder: Path, overrides: list[str]) -> Recipe:
    """The recipe of a run, for one whole model on every process, with its data where it is now. Raises `UserError`."""
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise UserError(f"--run {folder}: found no recipe.yaml there; expected the folder of a run")
    recipe = load_recipe(str(path), [*overrides, *_WHOLE])
    if recipe.data.dir.exists() or recipe.data.dir.is_absolute():
        return recipe
    # a relative path is of the directory that the run was started in, maybe one of those that the run folder is in
    near = [parent / recipe.data.dir for parent in folder.resolve().parents]
    found = next((path for path in near if path.is_dir()), recipe.data.dir)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"dir": found})})


def check_data(found: FoundWeights, recipe: Recipe, data: PreparedData) -> None:
    """Raise `UserError` unless weights were trained on this data, or `checkpoint.allow_changed_data` is set."""
    data.check_trained_on(stage_of(recipe, found.stage), found.origin, found.data)


def load_model(recipe: Recipe, value: InitialValue, device: torch.device) -> JointModel:
    """The recipe's model with these weights, in the precision that its weights have in training. Raises `UserError`."""
    with torch.device("meta"):
        model = JointModel(recipe)
    model.to_empty(device=device)
    model.tie()
    dtype = torch.bfloat16 if recipe.parallel.weights == "bf16" else torch.float32
    model.to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(value(name, parameter.shape))
    return model.requires_grad_(False).eval()


def _whole_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint; raises `UserError` where it or a file that it names is damaged."""
    manifest, wrong = read_manifest(folder)
    found = [wrong] if wrong else damage(folder, manifest["files"])
    if found:
        raise UserError(f"{folder}: damaged: {'; '.join(found)}; evaluate another step")
    return manifest


def _checkpoint_value(folder: Path, manifest: dict[str, Any]) -> InitialValue:
    reader = PieceReader(folder, sorted(manifest["files"]))
    shapes = manifest["parameters"]

    def value(name: str, shape: torch.Size) -> torch.Tensor:
        if shapes.get(name) != list(shape):
            raise UserError(
                f"{folder}: weight '{name}' has shape {shapes.get(name)}; the recipe's model has {list(shape)}; use "
                f"the recipe that the checkpoint was written with"
            )
        flat = torch.empty(shape.numel())
        whole = Piece(name, Shard.of(name, shape[0], 0, 1), 0, flat.numel(), flat, 0)
        reader.read(WEIGHT, whole, flat.numel(), flat)
        return flat.view(shape)

    return value


def _is_finished(run: Path, stage: str) -> bool:
    return read_state(run / stage / "weights") is not None


def _steps(run: Path, stage: str) -> list[int]:
    names = [path.name.removeprefix("step-") for path in (run / stage / "checkpoints").glob("step-*")]
    return sorted(int(name) for name in names if name.isdecimal())


def _last_step(run: Path, stage: str) -> int:
    """The step of a finished stage: the last one that its metrics name, as its last checkpoint may be gone."""
    try:
        rows = json_rows((run / "metrics.jsonl").read_text(encoding="utf-8", errors="replace"))
        return max(row["step"] for row in rows if row["stage"] == stage)
    except (OSError, ValueError, KeyError):
        raise UserError(
            f"{run / 'metrics.jsonl'}: found no row of stage '{stage}'; expected the metrics of the run; restore it"
        ) from None


def _identity(folder: Path) -> str:
    """Of the files' names, sizes and times of writing: hashing weights takes minutes."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()
