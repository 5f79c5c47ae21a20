"""Weights of a run are found, or the user hears in a line why not."""

from pathlib import Path

import pytest

from prealign.distributed.manifest import write_manifest
from prealign.errors import UserError
from prealign.evaluation.loading import find_weights


def test_a_checkpoint_without_a_whole_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "pretrain" / "checkpoints" / "step-7"
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match=r"step-7: damaged: manifest\.json is missing; evaluate another step"):
        find_weights(tmp_path)
    write_manifest(folder, {"state": {"data": "abc"}, "files": {}, "parameters": {}})
    assert find_weights(tmp_path).data == "abc"
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"step-7: damaged: manifest\.json does not have the SHA-256"):
        find_weights(tmp_path, "pretrain", 7)
