"""One validated `Recipe` holds every number of a run."""

from prealign.config.loading import dump_recipe, load_recipe
from prealign.config.recipe import Recipe

__all__ = ["Recipe", "dump_recipe", "load_recipe"]
