"""Where the special pairs of a batch lie: ``python -m tests.kernels.special_tiles [--config RECIPE [key=value ...]]``.

Of 16,384 words with as many positives scattered over them, or of a recipe's first word batch (its data prepared): which
share of the tiles has any special pair, which share has one that a denominator leaves out (these read bits), and how
many entries of G are computed anew.
"""

import argparse

import torch

from prealign.config import load_recipe
from prealign.data.prepared import open_data
from prealign.data.word_batches import WordBatches
from prealign.kernels import Relations, csr
from prealign.kernels.pieces import make_piece
from prealign.kernels.square import plan_gradient, plan_lse, square_shape

WORDS = 16_384


def scattered() -> Relations:
    """Pairs of words drawn at random, each positive both ways."""
    left, right = torch.randint(0, WORDS, (2, WORDS), generator=torch.Generator().manual_seed(0))
    left, right = left[left != right], right[left != right]
    positives = csr(torch.cat((left, right)), torch.cat((right, left)), WORDS)
    nothing = csr(left[:0], left[:0], WORDS)
    return Relations(positives, nothing, torch.full((WORDS,), 1 / WORDS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    relations = scattered()
    if options.config:
        recipe = load_recipe(options.config, options.overrides)
        lexicon = open_data(recipe).lexicon
        assert lexicon is not None, "the recipe has no alignment table"
        relations = WordBatches(lexicon, recipe.align, recipe.seed).batch(0).relations
    everyone = torch.arange(len(relations))
    piece = make_piece(relations, everyone, everyone, False, torch.float32)
    lse = plan_lse(piece, torch.bfloat16)
    listed = plan_gradient(piece, torch.bfloat16, True, True)
    height, width = square_shape(torch.bfloat16)
    column_tiles = -(-len(piece.columns) // width)
    special = listed.pair_rows // height * column_tiles + listed.pair_columns // width
    tiles, pairs = len(lse.tile_index), len(listed.pair_rows)
    print(f"{len(relations):,} words, {len(piece.positives.rows):,} positives, {len(piece.ignored.rows):,} ignored")
    print(f"tiles with any special pair        {len(special.unique()) / tiles:.1%} of {tiles:,}")
    print(f"tiles that read bits for the lse   {(lse.tile_index >= 0).sum().item() / tiles:.1%}")
    print(f"entries of G computed anew         {pairs:,}, {pairs / len(relations) ** 2:.3%}")


if __name__ == "__main__":
    main()
