"""PreAlign: align the words of several languages before pretraining, then pretrain with input-only code-switching."""

__version__ = "0.1.0"
