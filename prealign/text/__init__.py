"""Text: tokenizer, word boundaries, reading documents."""
