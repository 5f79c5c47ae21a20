"""Injected facts as tasks of the Language Model Evaluation Harness (`lm_eval`), to measure an export with.

Each fact is a multiple-choice item: which of four statements, without context, has the highest sum of log-probabilities
after an end-of-document token, which the harness puts before a text without context. That is what
`prealign.evaluation.facts` computes, so both choose the same statements.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from prealign.evaluation.facts import FactsTest
from prealign.facts.drawing import Fact

FOLDER = "lm_eval"
_VERSION = 1.0


def write_tasks(export: Path, test: FactsTest, step: int) -> dict[str, list[str]]:
    """Write ``export/lm_eval``: a task with its items (`.yaml`, `.jsonl`) for each pair of languages and frequency of
    the last period of facts that has ended by ``step`` of the pretrain stage; a group for each language that facts are
    tested in.

    Returns the tasks by tested language; none where no period has ended, and where attention ends at documents: the
    token before a statement is then not seen by all of it, which stock models do not know. Paths in the files are
    relative to ``export``.
    """
    recipe = test.data.recipe
    period = recipe.injected_facts.ended(step)
    if period is None or recipe.model.reset_at_document:
        return {}
    folder = export / FOLDER
    folder.mkdir()
    groups = {}
    for tested in recipe.languages:
        names = []
        for learned in recipe.facts_languages:
            for frequency in recipe.injected_facts.frequencies:
                name = f"clka_{learned}_{tested}_f{frequency}"
                of = (period, learned, frequency)
                facts = [fact for fact in test.facts if (fact.period, fact.language, fact.frequency) == of]
                items = [_item(test, fact, tested, number) for number, fact in enumerate(facts)]
                lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
                (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
                _write_yaml(folder / f"{name}.yaml", _task(name))
                names.append(name)
        group = f"clka_{tested}"
        aggregate = [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}]
        settings = {"group": group, "task": names, "aggregate_metric_list": aggregate}
        _write_yaml(folder / f"{group}.yaml", settings | {"metadata": {"version": _VERSION}})
        groups[tested] = names
    return groups


def _item(test: FactsTest, fact: Fact, language: str, number: int) -> dict[str, Any]:
    """A fact's statements in a language; the true one's place changes with ``number``, so that ties favour none."""
    rewritten = test.statements.tokenizer.words.get(language)
    written = [test.statements.text(fact, language, fact.template, name) for name in fact.choices]
    statements = [rewritten.to_clone(text) for text in written] if rewritten is not None else written
    label = number % len(statements)
    statements.insert(label, statements.pop(0))
    return {
        "period": fact.period,
        "relation": fact.relation,
        "subject": fact.subject,
        "object": fact.object,
        "statements": statements,
        "label": label,
    }


def _task(name: str) -> dict[str, Any]:
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{FOLDER}/{name}.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "num_fewshot": 0,
        "doc_to_text": "",
        "target_delimiter": "",
        "doc_to_choice": "statements",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": _VERSION},
    }


def _write_yaml(path: Path, value: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")
