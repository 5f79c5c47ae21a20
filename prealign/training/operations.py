"""Floating-point operations that a run has spent so far."""

from prealign.config import Recipe
from prealign.config.stage import pretrain_stage
from prealign.model.flops import infonce_flops, text_token_flops, word_token_flops
from prealign.training.plan import Account


class Operations:
    """Training operations of an account, by `prealign.model.flops`: text, word batches, and the alignment loss of both
    stages."""

    def __init__(self, recipe: Recipe) -> None:
        """``recipe``: the run's, with `align.words_per_step` in place of a coverage."""
        self._text, self._word = text_token_flops(recipe), word_token_flops(recipe)
        self._align_loss = infonce_flops(recipe, recipe.align.words_per_step or 0)
        pretraining = pretrain_stage(recipe).recipe
        self._pretrain_loss = infonce_flops(pretraining, pretraining.align.words_per_step or 0)
        self._every = recipe.pretrain.align_every

    def of(self, account: Account, align_steps: int) -> float:
        """Of an account, ``align_steps`` of whose steps were of an align stage."""
        pretrain_steps = account.steps - align_steps
        kept = -(-pretrain_steps // self._every) if self._every is not None else 0
        tokens = sum(account.text.values()) * self._text + sum(account.words.values()) * self._word
        return tokens + align_steps * self._align_loss + kept * self._pretrain_loss
