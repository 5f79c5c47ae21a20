"""Names of the measurements, for command lines: `prealign.evaluation.measuring.METRICS` has them in the same order."""

MEASUREMENTS = ("lm", "alignment", "mexa", "facts", "leakage", "nli", "pawsx")
