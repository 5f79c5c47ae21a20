"""The joint objective, put together from micro-batches, against the formulas of the paper written out."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from prealign.config import Recipe
from prealign.data.loader import StageDataset
from prealign.data.mixture import Phase
from prealign.data.prepared import open_data
from prealign.data.switching import IGNORED
from prealign.data.word_batches import WordBatch, WordBatches
from prealign.kernels.reference import infonce_reference
from prealign.model.initialisation import initial_value
from prealign.model.layout import Group, Layout
from prealign.objectives.inputs import ModelInputs, text_inputs, word_inputs
from prealign.objectives.joint import JointModel
from tests.conftest import tiny_recipe

CPU = torch.device("cpu")


def model_of(recipe: Recipe) -> JointModel:
    model = JointModel(recipe).double()
    for name, parameter in model.named_parameters():
        parameter.data.copy_(initial_value(name, parameter.shape, recipe))
    return model


def literal_loss(
    model: JointModel, recipe: Recipe, rows: torch.Tensor, targets: torch.Tensor, words: WordBatch
) -> torch.Tensor:
    """L_joint: the mean over all targets of the step, plus the loss of every layer over words encoded one by one."""
    count, length = rows.shape
    positions = torch.arange(length).repeat(count)
    hidden, _ = model.gpt(rows.flatten(), positions, Layout((Group(count, length),)))
    lm = F.cross_entropy(hidden @ model.head.weight.T, targets.flatten(), ignore_index=IGNORED)

    layers: list[list[torch.Tensor]] = []
    ends = torch.cumsum(words.lengths, 0)
    for end, size in zip(ends.tolist(), words.lengths.tolist()):
        ids = words.tokens[end - size : end]
        states = [model.gpt.embedding.tokens(ids)]
        hidden = states[0] + model.gpt.embedding.positions(torch.arange(size))
        for block in model.gpt.blocks:
            hidden, _ = block(hidden, Layout((Group(1, size),)), None)
            states.append(hidden)
        if recipe.align.final_norm:
            states[-1] = model.gpt.norm(states[-1])
        if not recipe.model.tied_embeddings:
            states.append(model.head.weight[ids])
        layers.append([F.normalize(state.mean(dim=0), dim=0) for state in states])
    z = torch.stack([torch.stack(vectors) for vectors in zip(*layers)])
    if recipe.align.layers != "all":
        z = z[torch.tensor(recipe.align.layers)]
    losses, _ = infonce_reference(z, words.relations, recipe.align.tau)
    reduced = losses.sum() if recipe.align.layer_reduce == "sum" else losses.mean()
    return lm + recipe.align.weight * reduced


@pytest.mark.parametrize(
    ("align", "model"),
    [
        ({}, {}),
        ({"weight": 0.3, "layer_reduce": "mean", "final_norm": False}, {}),
        ({}, {"tied_embeddings": True}),
        ({"layers": [0, 2], "anchor_fraction": 0.3}, {}),
    ],
)
def test_loss_and_gradient_of_a_step(data_dir: Path, align: dict, model: dict) -> None:
    recipe = tiny_recipe(data_dir, align={"words_per_step": 30} | align, model=model)
    data = open_data(recipe)
    dataset = StageDataset(data.streams(code_switch=True), Phase((20, 4), (0, 0), key=1), seed=1)
    batches = dataset[dataset.locate(torch.arange(12).numpy()), 4]
    assert (torch.cat([batch.targets for batch in batches]) == IGNORED).any()
    assert data.lexicon is not None
    words = WordBatches(data.lexicon, recipe.align, seed=3).batch(0)

    trained = model_of(recipe)
    targets = sum(int((batch.targets != IGNORED).sum()) for batch in batches)
    total = torch.zeros((), dtype=torch.float64)
    for number, batch in enumerate(batches):
        shared = word_inputs(words, 0, 1) if number == 0 else None
        text = text_inputs(batch, CPU, None, language_of_source=recipe.language_of_source)
        outputs = trained(ModelInputs(text, shared, torch.tensor(targets), len(batches)))
        total = total + outputs["loss"] / len(batches)  # as the engine does
    got = torch.autograd.grad(total, list(trained.parameters()))

    rows, labels = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("inputs", "targets"))
    oracle = model_of(recipe)
    expected = literal_loss(oracle, recipe, rows, labels, words)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(got, torch.autograd.grad(expected, list(oracle.parameters())), rtol=1e-6, atol=1e-9)


def test_word_shares_of_ranks_are_the_batch(data_dir: Path) -> None:
    recipe = tiny_recipe(data_dir)
    data = open_data(recipe)
    assert data.lexicon is not None
    words = WordBatches(data.lexicon, recipe.align, seed=3).batch(2)
    model = model_of(recipe)
    whole = model(ModelInputs(None, _without_relations(words, 0, 1)))["word_vectors"]
    for ranks in (2, 3):
        parts = [
            model(ModelInputs(None, _without_relations(words, rank, ranks)))["word_vectors"] for rank in range(ranks)
        ]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def _without_relations(words: WordBatch, rank: int, ranks: int):
    from dataclasses import replace

    return replace(word_inputs(words, rank, ranks), relations=None)
