"""The results in the tree are of the suites in the tree."""

from pathlib import Path

from prealign.suites.expansion import expand
from prealign.suites.results import missing_measures
from prealign.suites.suite import load_suite, load_variants, suite_names

RESULTS = Path(__file__).parents[2] / "configs" / "results"


def test_every_result_is_what_a_suite_asks_for() -> None:
    plan = expand([load_suite(name) for name in suite_names()], load_variants(), "demo", RESULTS)
    known = {measurement.name: measurement for measurement in plan.measurements}
    files = sorted((RESULTS / "demo").glob("*.json"))
    for path in files:
        assert path.stem in known
        measurement = known[path.stem]
        assert set(missing_measures(RESULTS / "demo", measurement)) < set(measurement.measures), path.name
        assert "/tmp/" not in path.read_text()
