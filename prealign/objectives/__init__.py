"""Losses: alignment, language modelling, and the one module whose forward computes both."""
