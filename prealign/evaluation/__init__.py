"""Measurements on a model: held-out perplexity, similarity of aligned words."""
