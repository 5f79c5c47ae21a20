"""What training reads: prepared data, mixture, sequences, code-switching, loader, word batches."""
