"""The ladder's results in the tree are of the ladder in the tree, and were predicted before."""

from pathlib import Path

from prealign.scaling.ladder import load_ladder
from prealign.scaling.plan import plan_of
from prealign.scaling.predictions import FILE, read_predictions
from prealign.suites.results import missing_measures, read_result

RESULTS = Path(__file__).parents[2] / "configs" / "results" / "scaling"


def test_every_result_is_what_the_ladder_asks_for() -> None:
    plan = plan_of(load_ladder("demo"), "demo", RESULTS)
    known = {measurement.name: measurement for measurement in plan.measurements}
    for path in sorted((RESULTS / "demo").glob("*-s*.json")):
        assert path.stem in known, path.name
        assert missing_measures(RESULTS / "demo", known[path.stem]) == [], path.name
        assert "/tmp/" not in path.read_text()


def test_predictions_are_older_than_what_they_predict() -> None:
    predictions = read_predictions(RESULTS / "demo" / FILE)
    if predictions is None:
        return
    plan = plan_of(load_ladder("demo"), "demo", RESULTS)
    by_name = {measurement.name: measurement for measurement in plan.measurements}
    for name in {prediction.run for prediction in predictions.predictions}:
        result = read_result(plan.folder, by_name[name])
        assert result is None or result["date"] > predictions.date
