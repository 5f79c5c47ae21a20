"""The decoder (blocks of GPT-2 or Llama), its attention backends and its initialisation."""
