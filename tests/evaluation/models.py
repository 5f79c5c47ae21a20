"""Small models and a world of one process, for the tests of measurements."""

import torch

from prealign.config import Recipe
from prealign.distributed.world import World
from prealign.model.initialisation import initial_value
from prealign.objectives.joint import JointModel


class Alone(World):
    """A world of one rank without a process group."""

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


ONE = Alone(0, 1, torch.device("cpu"))


def model_of(recipe: Recipe) -> JointModel:
    """A model with initial weights, enlarged so that it is away from uniform."""
    model = JointModel(recipe)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(initial_value(name, parameter.shape, recipe) * 5)
    return model.requires_grad_(False).eval()
