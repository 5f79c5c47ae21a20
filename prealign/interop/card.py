"""The model card of an export: what the model is, how it is loaded, and what was measured of it."""

import json
from pathlib import Path
from typing import Any

from prealign.config import Recipe
from prealign.evaluation.loading import FoundWeights
from prealign.evaluation.results import results_path
from prealign.evaluation.table import rows
from prealign.files import json_rows
from prealign.interop.architectures import Architecture
from prealign.interop.lm_eval_tasks import FOLDER


def model_card(
    recipe: Recipe, run: Path, found: FoundWeights, architecture: Architecture, tasks: dict[str, list[str]]
) -> str:
    """The text of ``README.md``. ``tasks``: as `prealign.interop.lm_eval_tasks.write_tasks` gives them."""
    clones = "".join(
        f"\nIts clone language `{name}` has token ids of its own: `AutoTokenizer.from_pretrained(FOLDER, "
        f'subfolder="tokenizer_{name}")`.\n'
        for name in recipe.clones
    )
    reset = (
        "\nIt was trained with attention that ends at documents; give it one document at a time.\n"
        if recipe.model.reset_at_document
        else ""
    )
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---

# {recipe.name}

Step {found.step} of the {found.stage} stage, trained with PreAlign-Trainer on {", ".join(recipe.languages)}; a
`{architecture.name}`, which `transformers` loads as it is:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
```
{clones}{reset}
`recipe.yaml` is what it was trained with, in full. Text ended with the token {recipe.data.tokenizer.end_id}.
{_measured(run, found)}{_harness(recipe, tasks)}"""


def other_results(run: Path, found: FoundWeights) -> Path | None:
    """Results of this stage and step that are of other weights than ``found``, as in a run folder that was copied."""
    for split in ("test", "dev"):
        path = results_path(run / "evaluation", found.stage, found.step, split)
        if path.is_file() and _read(path).get("identity") != found.identity:
            return path
    return None


def _measured(run: Path, found: FoundWeights) -> str:
    """What `launchers/evaluate.py` wrote of these very weights, else what training measured at this step."""
    for split in ("test", "dev"):
        record = _read(results_path(run / "evaluation", found.stage, found.step, split))
        if record.get("identity") != found.identity:
            continue
        taken = [row for row in rows(record["metrics"]) if row[2] != "-"]
        if taken:
            lines = "".join(f"| {name} | {of} | {value} | {note} |\n" for name, of, value, note in taken)
            return (
                f"\n## Measured\n\nText is held-out text (`{split}`). By `launchers/evaluate.py`, the last time on "
                f"{record['date'][:10]} as `{record['command']}`:\n\n"
                f"| | of | | |\n|---|---|---|---|\n{lines}"
            )
    return _while_training(run / "metrics.jsonl", found)


def _while_training(metrics: Path, found: FoundWeights) -> str:
    """Perplexity on ``dev`` text from the log's row of this step; nothing where there is none."""
    content = metrics.read_text(encoding="utf-8", errors="replace") if metrics.is_file() else ""
    last: dict[str, Any] = {}
    for row in json_rows(content):
        if (row.get("kind"), row.get("stage"), row.get("step")) == ("eval", found.stage, found.step):
            last = row
    values = {key.removeprefix("perplexity/"): last[key] for key in last if key.startswith("perplexity/")}
    if not values:
        return ""
    lines = "".join(f"| perplexity | {language} | {value:.2f} |\n" for language, value in values.items())
    return (
        f"\n## Measured\n\nOn held-out text (`dev`), by training at step {found.step}:\n\n| | of | |\n|---|---|---|\n"
        f"{lines}"
    )


def _harness(recipe: Recipe, tasks: dict[str, list[str]]) -> str:
    """How the tasks are run."""
    if not tasks:
        return ""
    lines = []
    for tested in tasks:
        tokenizer = f",tokenizer=tokenizer_{tested}" if tested in recipe.clones else ""
        lines.append(
            f"lm_eval run --model hf --model_args pretrained=.{tokenizer} --include_path {FOLDER} "
            f"--tasks clka_{tested}\n"
        )
    return f"""
## Facts, by lm-evaluation-harness

`{FOLDER}/` has the injected facts as tasks, `clka_LEARNED_TESTED_fN` (learned in one language, tested in another,
written N times); chance is 25 %. In this folder:

```bash
{"".join(lines)}```
"""


def _read(path: Path) -> dict[str, Any]:
    """A record of results; empty where there is none, or one that is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
