"""Rates are those that were measured, where there are some, and the plan says which."""

import json
from pathlib import Path

import pytest

from prealign.errors import UserError
from prealign.planning.devices import DEVICES, data_sheet
from prealign.planning.rates import rates_of, sheet_rates

CEILINGS = {
    "device": "NVIDIA A100-SXM4-80GB",
    "product_tflops": {"square": 240.0, "head": 260.0},
    "copy_gb_s": 1700.0,
    "attention_tflops": {"default": 120.0},
}


def test_an_h100_was_measured() -> None:
    rates = rates_of(data_sheet("h100"))
    assert rates.products / 1e12 == pytest.approx(666.3, abs=0.1)
    assert rates.copy / 1e12 == pytest.approx(3.012, abs=0.001)
    assert rates.attention / 1e12 == pytest.approx(226.06, abs=0.1)
    assert rates.optimizer * 0.1003659 == pytest.approx(94 * 1415696384, rel=1e-3)
    assert "measured (h100/ceilings.json" in rates.source[0]


def test_constants_are_those_of_that_h100() -> None:
    """So that the data sheet of an H100 gives what was measured on one."""
    sheet, measured = sheet_rates(data_sheet("h100")), rates_of(data_sheet("h100"))
    for name in ("products", "copy", "attention", "optimizer", "triangle", "triangle_layer"):
        assert getattr(sheet, name) == pytest.approx(getattr(measured, name), rel=0.01), name


@pytest.mark.parametrize("device", DEVICES)
def test_others_are_from_data_sheets(device: str) -> None:
    sheet, rates = data_sheet(device), rates_of(data_sheet(device))
    assert rates.products < sheet.peak
    assert rates.copy < sheet.bandwidth
    assert ("data sheet" in rates.source[0]) == (sheet.name != "H100")


def test_a_record_takes_the_place_of_the_sheet(tmp_path: Path) -> None:
    path = tmp_path / "ceilings.json"
    path.write_text(json.dumps(CEILINGS))
    rates = rates_of(data_sheet("a100"), [path])
    assert (rates.products, rates.copy, rates.attention) == (250e12, 1700e9, 120e12)
    assert rates.square == sheet_rates(data_sheet("a100")).square
    assert rates.source[0] == "measured (ceilings.json); alignment loss from the data sheet"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list"),
        (json.dumps(CEILINGS | {"device": "NVIDIA H200"}), "is of 'NVIDIA H200'; expected (one|a record) of A100"),
        (json.dumps({"device": "NVIDIA A100", "loss": 1}), "has the keys"),
        (json.dumps(CEILINGS | {"product_tflops": {}}), "lacks what such a record has"),
        (json.dumps(CEILINGS | {"copy_gb_s": 10**400}), "lacks what such a record has"),
        (json.dumps(CEILINGS | {"copy_gb_s": 0}), "record.json: copy: found 0; expected a number from 1000 to 1e"),
        (json.dumps(CEILINGS | {"attention_tflops": {"default": float("nan")}}), "attention: found nan; expected"),
        ("[" * 200_000, "is not JSON"),
        (None, "cannot be read"),
    ],
)
def test_records_that_are_none(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "record.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        rates_of(data_sheet("a100"), [path])


def test_an_unknown_card() -> None:
    with pytest.raises(UserError, match="--device: found 'v100'; expected one of a100"):
        data_sheet("v100")
