"""Models and tokenizers as other programs read them."""
