"""Formats on disk: token stores (Megatron's ``.bin/.idx``), word maps, code-switch maps."""
