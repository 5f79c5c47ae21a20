"""Text and dictionaries -> prepared data; training imports nothing of it."""
