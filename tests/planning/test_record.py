"""What others published: their models are ours in size, and how far plans are from their MFU is what the guide says."""

import math

import pytest

from prealign.config.model import ModelConfig
from prealign.model.shapes import parameter_shapes
from prealign.planning.record import _MODELS, Row, rows

ROWS = list(rows())


@pytest.mark.parametrize(
    ("name", "context", "parameters"),
    [
        ("mpt-1b", 2048, 1_315_950_592),
        ("mpt-3b", 2048, 2_651_837_440),
        ("mpt-7b", 2048, 6_658_859_008),
        ("mpt-13b", 2048, 12_853_954_560),
        ("nanotron-1.34b", 4096, 1.34e9),
        ("nanotron-3.57b", 4096, 3.57e9),
        ("nanotron-8.86b", 4096, 8.86e9),
        ("megatron-1.7b", 4096, 1.7e9),
        ("megatron-7.1b", 4096, 7.1e9),
    ],
)
def test_models_have_the_published_number_of_parameters(name: str, context: int, parameters: float) -> None:
    vocabulary, shape = _MODELS[name]
    shapes = parameter_shapes(ModelConfig(context=context, **shape), vocabulary)
    count = sum(map(math.prod, shapes.values()))
    assert count == pytest.approx(parameters, rel=1e-9 if isinstance(parameters, int) else 0.05)


def _rows_of(source: str, device: str) -> list[Row]:
    return [row for row in ROWS if row.source.startswith(source) and row.device == device]


@pytest.mark.parametrize(
    ("source", "device", "within", "mean"),
    [
        ("MosaicML", "a100", 12, 4.5),
        ("MosaicML", "h100", 5, 10.0),
        ("Megatron", "h100", 2, 6.0),
        ("nanotron", "h100", 2, 11.0),
    ],
)
def test_how_far_plans_are_off(source: str, device: str, within: int, mean: float) -> None:
    """At least so many rows within 6 points, and no more points off on average."""
    differences = [abs(row.difference) for row in _rows_of(source, device)]
    assert sum(value <= 6 for value in differences) >= within
    assert sum(differences) / len(differences) <= mean


def test_a_share_of_every_rate_explains_one_card_and_not_the_other() -> None:
    """What the guide says of rows on eight cards without recomputation: the H100's have less of every rate, whoever
    published them."""
    others = [row for row in rows(0.84) if not row.source.startswith("MosaicML")]
    assert sum(abs(row.difference) <= 6 for row in others) == 10
    assert len(others) == 11
    slower = [row for row in rows(0.84) if row.source.startswith("MosaicML") and row.layout.recompute is None]
    h100 = [row.difference for row in slower if row.device == "h100" and row.gpus == 8]
    assert len(h100) == 11
    assert max(map(abs, h100)) < 1.6
    assert all(row.difference < -8 for row in slower if row.device == "a100")
    as_planned = [row for row in _rows_of("MosaicML", "a100") if row.layout.recompute is None]
    assert all(abs(row.difference) < 6 for row in as_planned)
