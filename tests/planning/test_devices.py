"""Peak rates are found by the device's name, and unknown ones are not guessed."""

import pytest

from prealign.planning.devices import peak_tflops


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("AMD Instinct MI300X", 1307.4),
        ("Tesla V100-SXM2-32GB", None),
        ("AMD EPYC (CPU)", None),
    ],
)
def test_peak(name: str, peak: float | None) -> None:
    assert peak_tflops(name, "bf16") == peak


def test_fp32_has_no_listed_peak() -> None:
    assert peak_tflops("NVIDIA H100 80GB HBM3", "fp32") is None
