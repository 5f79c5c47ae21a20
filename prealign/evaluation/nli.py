"""Zero-shot cross-lingual transfer, ZS-CLT: fine-tune on source-language inference, test in every language."""

import copy
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from prealign.config import Recipe
from prealign.config.nli import NliConfig, NliDataConfig
from prealign.config.training import BatchConfig
from prealign.data.prepared import PreparedData
from prealign.distributed.engine import initialise_engine
from prealign.distributed.world import World
from prealign.errors import UserError
from prealign.evaluation.nli_data import Pair, encode_pair, read_pairs
from prealign.evaluation.results import NotMeasured
from prealign.model.gpt import GPT
from prealign.model.layout import Group, Layout
from prealign.objectives.joint import JointModel
from prealign.random_streams import mix, permute

Examples = tuple[list[np.ndarray], np.ndarray]
"""Token ids of every example, and their labels (int64)."""


class Classifier(nn.Module):
    """A linear layer on the final hidden state of the last token."""

    def __init__(self, gpt: GPT, hidden_size: int, labels: int, seed: int) -> None:
        super().__init__()
        self.gpt = gpt
        generator = torch.Generator().manual_seed(seed)
        weight = torch.empty(labels, hidden_size).normal_(0.0, 0.02, generator=generator)
        parameter = next(gpt.parameters())
        self.weight = nn.Parameter(weight.to(parameter.device, parameter.dtype))

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """``ids``: ``[rows, longest]``, padded on the right; ``lengths``, ``labels``: ``[rows]``. Returns the mean
        ``loss`` and ``logits [rows, labels]`` in fp32."""
        rows, longest = ids.shape
        positions = torch.arange(longest, device=ids.device).repeat(rows)
        hidden, _ = self.gpt(ids.flatten(), positions, Layout((Group(rows, longest),), ids.device))
        last = hidden.view(rows, longest, -1)[torch.arange(rows, device=ids.device), lengths - 1]
        logits = (last @ self.weight.T).float()
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def transfer(model: JointModel, data: PreparedData, world: World, task: str) -> dict[str, Any]:
    """Accuracy on the test pairs of every language after fine-tuning, per seed, with mean and standard deviation.

    ``task``: `nli` or `pawsx`, the section of `Evaluation` that has the pairs.

    After each epoch all sets are measured; what counts are the test accuracies after the epoch with the best accuracy
    on the source language's dev pairs (the earliest of equals). All ranks call it. Raises `NotMeasured`, `UserError`.
    """
    settings = getattr(data.recipe.evaluation, task)
    if settings is None:
        raise NotMeasured(f"no pairs of sentences (evaluation.{task})")
    if settings.batch_size % world.world_size:
        raise UserError(
            f"evaluation.{task}.batch_size: found {settings.batch_size} on {world.world_size} ranks; expected a "
            f"multiple of them"
        )
    source = data.recipe.source_language

    def examples(language: str, rows: NliDataConfig, key: str) -> Examples:
        return _examples(data, language, read_pairs(rows, f"evaluation.{task}.{key}", settings.labels))

    train = examples(source, settings.train, "train")
    dev = examples(source, settings.dev, "dev")
    tests = {name: examples(name, rows, f"test.{name}") for name, rows in _tests(settings, data.recipe).items()}
    if len(train[0]) < settings.batch_size:
        raise UserError(
            f"evaluation.{task}.train: found {len(train[0])} pairs; expected at least batch_size={settings.batch_size}"
        )
    runs = [_fine_tune(model, settings, data.recipe, world, seed, train, dev, tests) for seed in settings.seeds]
    result: dict[str, Any] = {
        name: {
            "accuracy": statistics.mean(run["test"][name] for run in runs),
            "deviation": statistics.stdev(run["test"][name] for run in runs) if len(runs) > 1 else None,
            "pairs": len(tests[name][0]),
        }
        for name in tests
    }
    return {"languages": result, "chance": 1 / len(settings.labels), "trained_on": len(train[0]), "runs": runs}


def _tests(settings: NliConfig, recipe: Recipe) -> dict[str, NliDataConfig]:
    """The test sets; a clone of the source that has none of its own takes the source's."""
    found = {name: settings.test[name] for name in recipe.languages if name in settings.test}
    source = settings.test.get(recipe.source_language)
    clones = [name for name in recipe.clones if recipe.languages[name].clone_of == recipe.source_language]
    return found | {name: source for name in clones if name not in found and source is not None}


def _examples(data: PreparedData, language: str, pairs: list[Pair]) -> Examples:
    context = data.recipe.model.context
    ids = [encode_pair(data.clone_tokenizer, language, pair, context) for pair in pairs]
    return ids, np.array([label for _, _, label in pairs], np.int64)


def _fine_tune(
    model: JointModel,
    settings: NliConfig,
    recipe: Recipe,
    world: World,
    seed: int,
    train: Examples,
    dev: Examples,
    tests: dict[str, Examples],
) -> dict[str, Any]:
    """One seed; returns its accuracies by epoch, the chosen epoch (from 1) and its test accuracies."""
    sizes = BatchConfig.over(world.world_size, settings.batch_size, recipe.batch.micro_batch_size)
    per_rank, micro = settings.batch_size // world.world_size, sizes.micro_batch_size
    steps = len(train[0]) // settings.batch_size
    gpt = copy.deepcopy(model.gpt).requires_grad_(True)
    engine = initialise_engine(
        Classifier(gpt, recipe.model.hidden_size, len(settings.labels), seed),
        recipe.model_copy(update={"batch": sizes}),
        world,
        _learning_rate(settings, steps * settings.epochs),
    )
    epochs = []
    for epoch in range(settings.epochs):
        engine.train()
        order = permute(np.arange(len(train[0])), len(train[0]), int(mix(seed, epoch)))
        for step in range(steps):
            first = step * settings.batch_size + world.rank * per_rank
            mine = order[first : first + per_rank]
            for begin in range(0, per_rank, micro):
                batch = _batch(train, mine[begin : begin + micro], world.device)
                engine.backward(engine(*batch)["loss"])
                engine.step()
        engine.eval()
        measured: dict[str, Any] = {"dev": accuracy(engine, world, dev, micro)}
        measured |= {"test": {name: accuracy(engine, world, test, micro) for name, test in tests.items()}}
        epochs.append(measured)
    engine.destroy()
    best = max(range(len(epochs)), key=lambda number: epochs[number]["dev"])
    return {"seed": seed, "epoch": best + 1, "test": epochs[best]["test"], "epochs": epochs}


def _learning_rate(settings: NliConfig, steps: int) -> Callable[[int], float]:
    warmup = round(settings.warmup * steps)

    def rate(step: int) -> float:
        if step < warmup:
            return settings.learning_rate * (step + 1) / warmup
        return settings.learning_rate * max(0.0, (steps - step) / (steps - warmup))

    return rate


def accuracy(engine: nn.Module, world: World, examples: Examples, rows: int) -> float:
    """Share of right answers; ranks share the examples, ordered by length."""
    hits = torch.zeros((), dtype=torch.float64, device=world.device)
    for numbers in _shares(examples, world, rows):
        # a rank without a share repeats an example, so that all ranks make as many passes
        ids, lengths, labels = _batch(examples, numbers if len(numbers) else np.zeros(1, np.int64), world.device)
        with torch.no_grad():
            answers = engine(ids, lengths, labels)["logits"].argmax(dim=1)
        if len(numbers):
            hits += (answers == labels).sum()
    return float(world.sum(hits)) / len(examples[0])


def _shares(examples: Examples, world: World, rows: int) -> Iterator[np.ndarray]:
    order = np.argsort([len(ids) for ids in examples[0]], kind="stable")
    for first in range(0, len(order), rows * world.world_size):
        yield order[first + world.rank * rows : first + (world.rank + 1) * rows]


def _batch(examples: Examples, numbers: np.ndarray, device: torch.device) -> tuple[torch.Tensor, ...]:
    """``(ids, lengths, labels)`` of examples, padded on the right."""
    chosen = [torch.from_numpy(examples[0][number]) for number in numbers]
    lengths = torch.tensor([len(ids) for ids in chosen])
    padded = nn.utils.rnn.pad_sequence(chosen, batch_first=True)
    return padded.to(device), lengths.to(device), torch.from_numpy(examples[1][numbers]).to(device)
