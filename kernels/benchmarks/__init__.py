"""Time, memory and error of the kernels against their peers: ``python -m prealign.kernels.benchmarks --help``."""
