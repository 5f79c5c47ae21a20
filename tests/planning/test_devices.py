"""Peak rates are found by the device's name, and unknown ones are not guessed."""

from pathlib import Path

import pytest

from prealign.errors import UserError
from prealign.planning.devices import data_sheet, expect_device, peak_tflops


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


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("a100", "NVIDIA A100-SXM4-80GB"),
        ("a100", "NVIDIA A100 80GB PCIe"),
        ("a100-40gb", "A100-SXM4-40GB"),
        ("a100-40gb", "NVIDIA A100-PCIE-40GB"),
        ("a800", "NVIDIA A800-SXM4-80GB"),
        ("h100", "NVIDIA H100 80GB HBM3"),
        ("h100-pcie", "NVIDIA H100 PCIe"),
        ("h800", "NVIDIA H800"),
        ("h200", "NVIDIA H200"),
        ("h20", "NVIDIA H20"),
        ("b200", "NVIDIA B200"),
        ("l40s", "NVIDIA L40S"),
        ("rtx4090", "NVIDIA GeForce RTX 4090"),
        ("mi300x", "AMD Instinct MI300X"),
        ("mi300x", "AMD Instinct MI300X VF"),
    ],
)
def test_names_of_a_card(device: str, name: str) -> None:
    expect_device(data_sheet(device), name, Path("sweep.jsonl"))


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("h100", "NVIDIA H100 80GB HBM3 MIG 3g.40gb"),
        ("h100", "NVIDIA H100 80GB HBM3 MIG 7g.80gb"),
        ("a100", "NVIDIA A100-SXM4-80GB MIG 1g.10gb"),
        ("a100", "GRID A100-4C"),
        ("a100", "GRID A100D-80C"),
        ("a100", "NVIDIA A100-SXM4-40gb"),
        ("a100", "NVIDIA A100-SXM4-40 GB"),
        ("rtx4090", "NVIDIA GeForce RTX 4090 Laptop GPU"),
        ("rtx4090", "NVIDIA GeForce RTX 4090 D"),
        ("h20", "NVIDIA H20-3e"),
        ("l40s", "NVIDIA L40S-48Q"),
        ("h200", "NVIDIA H200 NVL"),
        ("h100", "NVIDIA H100 NVL"),
        ("h100", "NVIDIA GH200 480GB"),
    ],
)
def test_parts_of_a_card_and_others_of_its_name(device: str, name: str) -> None:
    sheet = data_sheet(device)
    with pytest.raises(UserError, match=f"is of '{name}'; expected a record of {sheet.name} with"):
        expect_device(sheet, name, Path("sweep.jsonl"))


def test_a_name_that_is_no_line_is_shown_as_one() -> None:
    with pytest.raises(UserError) as error:
        expect_device(data_sheet("h100"), "NVIDIA\n\x1b[31mH100", Path("sweep.jsonl"))
    assert str(error.value).isprintable()
    assert r"is of 'NVIDIA\n\x1b[31mH100'; expected" in str(error.value)
    with pytest.raises(UserError, match="expected a record of H100"):
        expect_device(data_sheet("h100"), f"NVIDIA H100 {'9' * 5000}GB", Path("sweep.jsonl"))
