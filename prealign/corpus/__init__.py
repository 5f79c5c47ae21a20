"""Token store, word map, code-switch map, mixture and loader."""
