"""Accelerators by their makers' data sheets."""

import re
from dataclasses import dataclass
from pathlib import Path

from prealign.errors import UserError

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
    name = _listed_name(device_name)
    return None if precision != "bf16" or name is None else DENSE_BF16_TFLOPS[name]


@dataclass(frozen=True)
class DataSheet:
    """What a card's maker says of it, and what a product of matrices was seen to reach.

    ``memory``: bytes. ``bandwidth``: of its memory, bytes/s. ``link``: to other cards of its node, bytes/s in one
    direction. ``network``: to other nodes, bytes/s a card, as nodes with such cards are usually sold. ``watts``: its
    power limit. ``best_product``: the highest share of the dense bf16 peak that a product reached, by the table
    "Maximum Achievable Matmul FLOPS" of https://github.com/stas00/ml-engineering (compute/accelerator); the lowest of
    its NVIDIA cards (0.80) where it has no row.
    """

    name: str
    memory: float
    bandwidth: float
    link: float
    network: float
    watts: float
    best_product: float = 0.80

    @property
    def peak(self) -> float:
        """Dense bf16 FLOP/s."""
        return DENSE_BF16_TFLOPS[self.name] * 1e12


_SHEETS = {
    "a100": DataSheet("A100", 80e9, 2.039e12, 300e9, 25e9, 400, 0.859),
    "a100-40gb": DataSheet("A100", 40e9, 1.555e12, 300e9, 25e9, 400, 0.859),
    "a800": DataSheet("A800", 80e9, 2.039e12, 200e9, 25e9, 400, 0.859),
    "h100": DataSheet("H100", 80e9, 3.35e12, 450e9, 50e9, 700, 0.801),
    "h100-pcie": DataSheet("H100 PCIe", 80e9, 2.0e12, 64e9, 25e9, 350, 0.801),
    "h800": DataSheet("H800", 80e9, 3.35e12, 200e9, 50e9, 700, 0.801),
    "h200": DataSheet("H200", 141e9, 4.8e12, 450e9, 50e9, 700, 0.801),
    "h20": DataSheet("H20", 96e9, 4.0e12, 450e9, 50e9, 400),
    "b200": DataSheet("B200", 180e9, 7.7e12, 900e9, 50e9, 1000),
    "l40s": DataSheet("L40S", 48e9, 864e9, 32e9, 25e9, 350),
    "rtx4090": DataSheet("RTX 4090", 24e9, 1.008e12, 32e9, 12.5e9, 450),
    "mi300x": DataSheet("MI300X", 192e9, 5.3e12, 448e9, 50e9, 750, 0.601),
}
_SIZE = re.compile(r"\b(\d+) ?GB\b", re.IGNORECASE)
"""Memory in a device's name."""
_WHOLE = frozenset(
    "NVIDIA AMD Tesla GeForce Instinct GPU SXM SXM4 SXM5 PCIe OAM VF HBM2 HBM2e HBM3 HBM3e".lower().split()
)
"""Words that a driver puts beside a card's name and its memory. Others name another card, or a part of one: MIG and
GRID, 40C and 48Q of vGPU, Laptop, NVL, 3e. VF is a whole MI300X in a virtual machine."""
DEVICES = tuple(_SHEETS)
"""Names of cards that can be planned for."""


def data_sheet(device: str) -> DataSheet:
    """The card called ``device``; raises `UserError` for one that is not in the table."""
    if device.lower() not in _SHEETS:
        raise UserError(f"--device: found '{device}'; expected one of {', '.join(DEVICES)}")
    return _SHEETS[device.lower()]


def expect_device(device: DataSheet, found: str, path: Path) -> None:
    """Raises `UserError` where the record in ``path``, of a device that its driver calls ``found``, is of another card
    than ``device``, of a part of one, or of as much memory as it has not."""
    sizes = _SIZE.findall(found)
    others = {word.lower() for word in _words(_SIZE.sub(" ", found))} - {word.lower() for word in _words(device.name)}
    same = _listed_name(found) == device.name and others <= _WHOLE
    if same and all(float(size) == round(device.memory / 1e9) for size in sizes):
        return
    other = "; there are no plans for a CPU" if found.endswith("(CPU)") else ", or another --device"
    raise UserError(
        f"--measured: {path} is of {found!r}; expected a record of {device.name} with {device.memory / 1e9:.0f} GB"
        f"{other}"
    )


def _listed_name(device_name: str) -> str | None:
    """The longest of `DENSE_BF16_TFLOPS` that a device's name has."""
    return max((name for name in DENSE_BF16_TFLOPS if _contains(device_name, name)), key=len, default=None)


def _contains(device_name: str, name: str) -> bool:
    """Whether the words of ``name`` stand in the device's name, in a row ("L4" is not in "L40S")."""
    words, wanted = _words(device_name), name.split()
    return any(words[first : first + len(wanted)] == wanted for first in range(len(words)))


def _words(device_name: str) -> list[str]:
    return device_name.replace("-", " ").split()
