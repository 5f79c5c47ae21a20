"""Checkpoints of the Hugging Face hub, in its cache."""

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from prealign.errors import UserError

_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*(@\w[\w./-]*)?(?<!/)", re.ASCII)
"""What does not begin with a dot or a slash, nor end with a slash, as paths may."""
_COMMIT = re.compile(r".+@[0-9a-f]{40}")
_FILES = ["config.json", "tokenizer.json", "model*.safetensors", "model.safetensors.index.json"]
"""What is read of a checkpoint. ``*`` stands for ``/`` too: other formats lie in folders of their own."""


def download(source: str) -> tuple[Path, str]:
    """A checkpoint on this machine, and what `model.init` calls it behind ``hf:``. ``source`` is a folder, or
    ``OWNER/NAME`` or ``OWNER/NAME@REVISION`` of the hub, which are downloaded where they are not in the cache and named
    with their commit. Raises `UserError`."""
    if Path(source).is_dir():
        return Path(source), str(Path(source).resolve())
    if not _ID.fullmatch(source):
        raise UserError(
            f"hf:{source}: no such folder; expected one with config.json and model.safetensors, or a model of the hub, "
            f"OWNER/NAME or OWNER/NAME@REVISION"
        )
    name, _, revision = source.partition("@")
    huggingface_hub.logging.set_verbosity_error()  # a line for every time that it asks again
    try:
        path = huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=_FILES)
    except GatedRepoError:
        raise UserError(
            f"hf:{source}: the hub gives it to those who have accepted its conditions; accept them on the page of "
            f"'{name}', then 'hf auth login' or set HF_TOKEN"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = "revision" if isinstance(error, RevisionNotFoundError) else "model (or none that is shown to you)"
        raise UserError(f"hf:{source}: no such folder, and the hub has no such {what}; mend the name") from None
    except Exception as error:  # the client's transport, which changes, has exceptions of its own
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"hf:{source}: no such folder, and it cannot be had from the hub: {reason}; mend the name, or import it "
            f"where the hub can be reached"
        ) from None
    folder = Path(path)
    for pattern in ("config.json", "model*.safetensors"):
        if not any(folder.glob(pattern)):
            raise UserError(
                f"hf:{source}: its repository has no {pattern}; expected a checkpoint in safetensors, as transformers "
                f"saves them"
            )
    return folder, f"{name}@{folder.name}"


def checkpoint_folder(source: str) -> Path:
    """The folder of a checkpoint that `model.init` names. One of the hub must be named with its commit, so that all
    ranks, and a run that goes on, have the same. Raises `UserError`."""
    if not Path(source).is_dir() and _ID.fullmatch(source) and not _COMMIT.fullmatch(source):
        raise UserError(
            f"model.init: hf:{source}: no such folder; a model of the hub has its commit behind it, OWNER/NAME@COMMIT: "
            f"'python launchers/import_hf.py {source}' downloads it and prints the keys"
        )
    return download(source)[0]
