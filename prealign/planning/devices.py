"""Peak rates of accelerators."""

DENSE_BF16_TFLOPS = {
    # Dense bf16 matrix rate by the makers' data sheets; the longest name that a device's name contains is used.
    "A100": 312.0,
    "A800": 312.0,
    "A10G": 70.0,
    "A10": 125.0,
    "A30": 165.0,
    "A40": 149.7,
    "L4": 121.0,
    "L40": 181.0,
    "L40S": 362.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "H800": 989.4,
    "H200": 989.4,
    "GH200": 989.4,
    "H20": 148.0,
    "B200": 2250.0,
    "GB200": 2500.0,
    "MI250X": 383.0,
    "MI300X": 1307.4,
    "RTX 3090": 71.0,
    "RTX 4090": 165.2,
    "RTX 5090": 209.5,
    "RTX 6000 Ada": 364.0,
}
"""Device name -> TFLOP/s without sparsity."""


def peak_tflops(device_name: str, precision: str) -> float | None:
    """Dense matrix rate of a device for ``bf16``, in TFLOP/s; None for a device or precision that is not listed."""
    names = [name for name in DENSE_BF16_TFLOPS if _contains(device_name, name)]
    if precision != "bf16" or not names:
        return None
    return DENSE_BF16_TFLOPS[max(names, key=len)]


def _contains(device_name: str, name: str) -> bool:
    """Whether the words of ``name`` stand in the device's name, in a row ("L4" is not in "L40S")."""
    words = device_name.replace("-", " ").split()
    wanted = name.split()
    return any(words[first : first + len(wanted)] == wanted for first in range(len(words)))
