"""The commands of the documents, run at the size of a minute, in one folder and in the order in which they stand.

Each is forked off this process, which has imported what launchers import, or started as it stands where it starts
processes itself.
"""

import contextlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml

from prealign.config import dump_recipe
from prealign.errors import run
from prealign.processes import free_port
from tests import documents
from tests.conftest import SAMPLE_TEXT, tiny_recipe
from tests.documents import ROOT, Command
from tests.interop.checkpoints import stock_model, stock_tokenizer
from tests.planning import sweep_files

NOT_RUN = {
    r"^git clone ": "needs the network",
    r"^pip install |import_hf\.py Qwen/": "needs the network",
    r"launchers/quickstart\.sh": "installs an environment and trains for minutes; what it starts is run here",
    r"^bash tests/run\.sh": "is these tests",
    r"^lm_eval ": "tests/interop/test_lm_eval_tasks.py runs it where lm_eval is installed",
    r"--hostfile|--nnodes": "needs several machines",
    r"^sbatch ": "needs Slurm; tests/launchers/test_slurm.py has a stand-in",
    r"launchers/gpu_check\.py|kernels\.benchmarks --tune": "needs a GPU",
    r"launchers/pretrain\.py --config real_": "needs the text of that recipe, gigabytes of it",
    r"launchers/reproduce\.py (?!.*(--list|--page))": "trains for an hour; see tests/launchers/test_reproduce.py",
    r"launchers/scaling\.py (?!.*(--list|--page))": "trains for an hour; see tests/launchers/test_scaling.py",
    r"launchers/translate\.py (?!.*--dry-run)": "asks a paid endpoint; see tests/lexicon/test_llm_command.py",
    r"^printf ": "writes a list of machines",
}
"""What is not run here, with the reason; `tests/test_documents.py` parses the command lines all the same."""

COMMANDS = [command for command in documents.commands() if command.document.endswith(".md")]
RUN = [command for command in COMMANDS if not any(re.search(each, command.text) for each in NOT_RUN)]
STARTS_PROCESSES = ("deepspeed",)


def test_nothing_is_left_out_by_mistake() -> None:
    """Every exception stands in a document, and what is run starts a program of ours."""
    for each in NOT_RUN:
        assert any(re.search(each, command.text) for command in COMMANDS), each
    assert [str(command) for command in RUN if command.program is None and _script(command) is None] == []


def _script(command: Command) -> str | None:
    """The script of its document that a command starts (``python name.py``)."""
    words = command.words
    name = words[1] if words[0] == "python" and len(words) > 1 else None
    return name if name in documents.scripts(ROOT / command.document) else None


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: a small recipe in place of `enclone_demo`, prepared and trained; text and a dictionary of
    their own; a checkpoint of another's; records of a card."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "configs").mkdir()
    demo = _small(name="enclone_demo", data_dir="data/enclone_demo")
    (folder / "configs" / "enclone_demo.yaml").write_text(yaml.safe_dump(demo))
    _write_own_text(folder)
    _write_tutorial(folder)
    _write_checkpoint(folder / "models" / "qwen")
    shutil.copytree(ROOT / "configs/results/h100", folder / "gpu_check")
    shutil.copyfile(folder / "gpu_check/1p3b_recipe.json", folder / "gpu_check/1p3b.json")
    stages = {"align": sweep_files.stage(1.6, words=16_384), "pretrain": sweep_files.stage(0.8)}
    sweep_files.write(folder / "sweep.jsonl", [sweep_files.row(["batch.micro_batch_size=8"], stages, 8)])
    for program, *arguments in (
        ["launchers.prepare", "--config", "enclone_demo"],
        ["launchers.pretrain", "--config", "enclone_demo"],
    ):
        code, output = forked(program, arguments, folder)
        assert code == 0, output
    return folder


def _small(name: str, data_dir: str) -> dict[str, Any]:
    """`tests.conftest.tiny_recipe` with fewer tokens, as plain values."""
    recipe = tiny_recipe(
        Path(data_dir),
        name=name,
        checkpoint={"every": 2, "keep": 50},
        evaluation={"leakage": {"samples": 8, "length": 8, "prompt_tokens": 8}},
        translation={"model": "gpt-4o", "input_price": 2.5, "output_price": 10},
    )
    values: dict[str, Any] = yaml.safe_load(dump_recipe(recipe))
    values["languages"]["en"]["tokens"], values["languages"]["clone"]["tokens"] = 10_240, 2_560
    return values


def _write_own_text(folder: Path) -> None:
    """``my/``: English, and a language that spells it backwards, with a dictionary; the recipes ``mine.yaml`` of the
    guides to data and to imports."""
    (folder / "my" / "en").mkdir(parents=True)
    texts = [json.loads(line)["text"] for line in (SAMPLE_TEXT / "northanger_abbey.jsonl").open()]
    (folder / "my/en/novel.txt").write_text("\n\n".join(text.replace("\n\n", "\n") for text in texts))
    other = [re.sub(r"[A-Za-z]+", lambda word: word[0][::-1].lower(), text) for text in texts]
    (folder / "my/de.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in other))
    words = sorted(set(re.findall(r"\b[a-z]{4,}\b", " ".join(texts))))
    (folder / "my/en-de.tsv").write_text("".join(f"{word}\t{word[::-1]}\n" for word in words))
    values = _small(name="mine", data_dir="data/mine")
    values["languages"] = {
        "en": {"tokens": 10_240, "text": {"files": ["my/en/*.txt"]}},
        "de": {"tokens": 2_560, "text": {"files": ["my/de.jsonl"]}, "dictionaries": ["my/en-de.tsv"]},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(values))
    tokenizer, model = values["data"].pop("tokenizer"), values.pop("model")
    assert tokenizer["vocab_size"] == 600
    values["base"], values["data"]["dir"] = "imported/qwen/model.yaml", "data/imported"
    values["model"] = {"context": model["context"]}
    (folder / "mine_imported.yaml").write_text(yaml.safe_dump(values))


def _write_tutorial(folder: Path) -> None:
    """The tutorial's recipe with a small part of its English and of its model, and its scripts as they are."""
    document = ROOT / "configs" / "tutorial.md"
    values = yaml.safe_load(documents.recipe(document) or "")
    values["languages"]["en"] |= {"tokens": 10_240, "text": {"files": ["configs/sample_text/northanger_abbey.jsonl"]}}
    values["languages"]["xx"]["tokens"] = 2_560
    values["data"]["tokenizer"]["vocab_size"] = 600
    values["model"] |= {"layers": 2, "hidden_size": 32, "context": 64}
    values["batch"] = {"global_batch_size": 8, "micro_batch_size": 4}
    values["align"] |= {"words_per_step": 64, "layers": [0, 3]}
    values["evaluation"] |= {"tokens": 2_000, "stride": 32, "probe_words": 50}
    (folder / "tutorial.yaml").write_text(yaml.safe_dump(values))
    (folder / "configs" / "sample_text").symlink_to(SAMPLE_TEXT)
    for name, code in documents.scripts(document).items():
        (folder / name).write_text(code)


def _write_checkpoint(folder: Path) -> None:
    tokenizer = stock_tokenizer("qwen", 600, ["<|endoftext|>"])
    stock_model("qwen2", tokenizer.get_vocab_size()).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def forked(program: str, arguments: list[str], cwd: Path) -> tuple[int, str]:
    """Run ``main`` of a module in a fork of this process; its exit code and what it wrote."""
    importlib.import_module(program)
    log = cwd / ".output"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _become(log, cwd, [program, *arguments])
            run(_main_of(program))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")


def _become(log: Path, cwd: Path, argv: list[str]) -> None:
    """Make the forked child a process of its own, as far as launchers can tell."""
    os.chdir(cwd)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.argv = argv


def _main_of(program: str) -> Any:
    module = importlib.import_module(program if program != "prealign.config" else "prealign.config.__main__")
    return module.main


def _arguments(command: Command) -> list[str]:
    """The command's, with what is the reader's replaced."""
    name = Path(str(command.program)).stem
    arguments = [f"out/{name}" if word == "out" else word for word in command.arguments]
    if command.document == "prealign/interop/README.md":
        arguments = ["mine_imported.yaml" if word == "mine.yaml" else word for word in arguments]
    if "de" in arguments and "mine.yaml" not in arguments:  # the demo's target is a clone
        arguments[arguments.index("de")] = "clone"
    if arguments[-2:] == ["--stage", "align"]:
        arguments.append("name=align_alone")
    if name == "reproduce" and "configs/results" in arguments:
        arguments[arguments.index("configs/results")] = str(ROOT / "configs/results")
    return arguments


@pytest.mark.parametrize("command", RUN, ids=str)
def test_command_runs(command: Command, work: Path) -> None:
    program = str(command.program)
    if (script := _script(command)) is not None:
        code, output = _output([sys.executable, script], work)
    elif command.words[0] in STARTS_PROCESSES:
        code, output = _started(command, work)
    else:
        code, output = forked(program.removesuffix(".py").replace("/", "."), _arguments(command), work)
    assert code == 0, output[-3000:]
    assert "Traceback" not in output


def _started(command: Command, work: Path) -> tuple[int, str]:
    """A command that starts processes itself, with the checkout's launchers."""
    words = [str(ROOT / word) if word == command.program else word for word in command.words]
    words[0] = str(Path(sys.executable).with_name(words[0]))
    words[1:1] = ["--master_port", str(free_port())]
    return _output([*words, f"run_dir=runs/{command.words[0]}"], work)


def _output(words: list[str], work: Path) -> tuple[int, str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr
