"""Launchers that leave what the real ones leave, in no time, when copied as prepare.py, pretrain.py, export.py and
evaluate.py.

Beside them, ``calls`` lists every call, and a file ``fail-NAME`` makes the training of a run whose name begins with
NAME fail; while ``slow`` is there, pretraining waits for SIGTERM after a checkpoint.
"""

import json
import signal
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
PERPLEXITY = {"joint": 200.0, "prealign": 150.0, "align_later": 170.0}


def main() -> None:
    program = Path(__file__).stem
    arguments = dict(word.split("=", 1) for word in sys.argv if "=" in word)
    name = arguments.get("name", Path(sys.argv[2]).name)
    with (HERE / "calls").open("a") as file:
        file.write(f"{program} {name} {' '.join(sys.argv[1:])}\n")
    print(f"{program} of {name}")
    if program == "pretrain":
        pretrain(name, arguments)
    elif program == "export":
        folder = Path(sys.argv[sys.argv.index("--out") + 1])
        folder.mkdir()
        (folder / "config.json").touch()
    elif program == "evaluate":
        evaluate(Path(sys.argv[sys.argv.index("--run") + 1]), sys.argv[sys.argv.index("--only") + 1].split(","))


def pretrain(name: str, arguments: dict[str, str]) -> None:
    for path in HERE.glob("fail-*"):
        if name.startswith(path.name.removeprefix("fail-")):
            print(f"error: {name}: no luck\n[launch.py:1] exits with return code = 2")
            sys.exit(2)
    folder = Path(arguments["run_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    if (HERE / "slow").exists():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        (folder / "checkpoint").touch()
        time.sleep(60)
    from prealign.config import dump_recipe, load_recipe

    config = sys.argv[sys.argv.index("--config") + 1]
    recipe = load_recipe(config, [word for word in sys.argv if "=" in word])
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    stage = recipe.stages[0]
    steps = 5 if stage == "align" else 100
    count = steps + (5 if recipe.pretrain.init_from else 0)
    state = {"text": {"en": 40_000, "clone": 10_000}, "words": {"en": 9, "clone": 9}, "steps": count}
    weights = folder / stage / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    (weights / "manifest.json").write_text(json.dumps({"state": state, "files": {}}))
    rows = [{"kind": "train", "stage": stage, "step": steps, "tokens": 50_000, "tokens_per_second": 1000.0}]
    tokens = 2_000 if stage == "align" else 50_000
    rows.append({"kind": "eval", "stage": stage, "step": steps, "tokens": tokens, "perplexity/clone": 200.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def evaluate(run: Path, names: list[str]) -> None:
    variant = run.name.partition("-")[0]
    metrics = {"lm": {"clone": {"perplexity": PERPLEXITY[variant]}}, "facts": {"skipped": "no facts"}}
    record = {"identity": f"weights of {run.name}", "ranks": 2, "metrics": {name: metrics[name] for name in names}}
    (run / "evaluation").mkdir(exist_ok=True)
    (run / "evaluation" / "step-100.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main()
