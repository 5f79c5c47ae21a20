"""The GPT-2 style model, its attention backends and its initialisation."""
