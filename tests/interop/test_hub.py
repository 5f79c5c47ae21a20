"""Checkpoints of the hub, from a small hub on this machine: what is downloaded, how it is named, what stays offline."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
import yaml

from prealign.errors import UserError
from prealign.interop.hub import checkpoint_folder, download
from tests.interop.checkpoints import stock_model, stock_tokenizer
from tests.processes import ROOT

COMMIT = "0123456789abcdef" * 2 + "01234567"
NAME = "someone/small-llama"
CUT = "someone/cut"
"""A model whose answers break off."""


class Hub:
    """Serves the files of one folder as the model `NAME`, at the commit that ``main`` and ``v1`` are at."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.requests.append(self.path)
                self._answer(*hub.answer(urlsplit(self.path).path, folder))

            do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, daemon=True).start()
        self.environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONWARNINGS": "ignore",
        }

    @staticmethod
    def answer(path: str, folder: Path) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path of the hub's interface."""
        if path in {f"/api/models/{NAME}/revision/{revision}" for revision in ("main", "v1", COMMIT)}:
            return 200, {}, json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode()
        if path == f"/api/models/{NAME}/tree/{COMMIT}":
            files = [each for each in sorted(folder.rglob("*")) if each.is_file()]
            listed = [
                {"type": "file", "path": str(each.relative_to(folder)), "size": each.stat().st_size, "oid": "0" * 40}
                for each in files
            ]
            return 200, {}, json.dumps(listed).encode()
        if path.endswith(f"{CUT}/revision/main"):
            return 200, {"Content-Length": "1000"}, b"{"  # and then nothing more
        file = folder / path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")
        if path.startswith(f"/{NAME}/resolve/{COMMIT}/") and file.is_file():
            body = file.read_bytes()
            return 200, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}, body
        if path.startswith("/api/models/someone/gated"):
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, b""
        code = "RevisionNotFound" if path.startswith(f"/api/models/{NAME}/") else "RepoNotFound"
        return 404, {"X-Error-Code": code}, b""

    def close(self) -> None:
        """Be unreachable from now on."""
        self._server.shutdown()
        self._server.server_close()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command that has this hub for the hub."""
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = tmp_path / "stock"
    stock_model("llama", 640).save_pretrained(folder)
    stock_tokenizer("llama3", 600, ["<|begin_of_text|>", "<|end_of_text|>"]).save(str(folder / "tokenizer.json"))
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.safetensors").write_bytes(b"of another format")
    (folder / "pytorch_model.bin").write_bytes(b"of another format")
    hub = Hub(folder, tmp_path / "home")
    yield hub
    hub.close()


READ = "from pathlib import Path; from prealign.interop.hub import checkpoint_folder as f; print(f('{}'))"


def test_an_import_downloads_what_is_read_and_names_the_commit(hub: Hub, tmp_path: Path) -> None:
    done = hub.run("launchers/import_hf.py", f"{NAME}@v1", "--out", str(tmp_path / "imported"))
    assert done.returncode == 0, done.stderr
    model = yaml.safe_load((tmp_path / "imported" / "model.yaml").read_text())["model"]
    assert model["init"] == f"hf:{NAME}@{COMMIT}"
    asked = {path.rpartition("/")[2] for path in hub.requests if "/resolve/" in path}
    assert asked == {"config.json", "model.safetensors", "tokenizer.json"}
    hub.close()  # the cache has it: a machine without a network trains on it
    code = READ.format(f"{NAME}@{COMMIT}")
    found = hub.run("-c", code)
    assert found.returncode == 0, found.stderr
    folder = Path(found.stdout.strip())
    for name in asked:
        assert (folder / name).read_bytes() == (tmp_path / "stock" / name).read_bytes()


def test_a_machine_without_the_cache_downloads_that_commit(hub: Hub) -> None:
    found = hub.run("-c", READ.format(f"{NAME}@{COMMIT}"))
    assert found.returncode == 0, found.stderr
    assert (Path(found.stdout.strip()) / "model.safetensors").is_file()
    before = len(hub.requests)
    assert hub.run("-c", READ.format(f"{NAME}@{COMMIT}")).returncode == 0
    assert [path for path in hub.requests[before:] if NAME in path] == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "someone/other",
            "no such folder, and the hub has no such model (or none that is shown to you); mend the name",
        ),
        (f"{NAME}@v2", "no such folder, and the hub has no such revision; mend the name"),
        ("someone/gated", "those who have accepted its conditions; accept them on the page of 'someone/gated'"),
    ],
)
def test_what_the_hub_refuses(hub: Hub, source: str, message: str) -> None:
    done = hub.run("launchers/import_hf.py", source)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: hf:{source}: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("endpoint", [None, "notaurl"])
def test_an_answer_that_breaks_off(hub: Hub, endpoint: str | None) -> None:
    if endpoint is not None:
        hub.environment["HF_ENDPOINT"] = endpoint
    done = hub.run("launchers/import_hf.py", CUT)
    assert done.returncode == 2, done.stderr
    assert f"hf:{CUT}: no such folder, and it cannot be had from the hub: " in done.stderr


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_repository_without_a_checkpoint(hub: Hub, tmp_path: Path, name: str) -> None:
    (tmp_path / "stock" / name).unlink()
    done = hub.run("launchers/import_hf.py", NAME)
    assert done.returncode == 2
    assert f"hf:{NAME}: its repository has no {name.replace('model.', 'model*.')}; expected" in done.stderr


def test_no_network(hub: Hub) -> None:
    hub.close()
    done = hub.run("launchers/import_hf.py", NAME)
    assert done.returncode == 2
    assert "no such folder, and it cannot be had from the hub: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_recipe_names_the_commit() -> None:
    with pytest.raises(UserError, match=r"hf:models/qwen: no such folder; a model of the hub has its commit behind it"):
        checkpoint_folder("models/qwen")
    with pytest.raises(UserError, match=r"hf:/no/such/folder: no such folder; expected one with config\.json"):
        checkpoint_folder("/no/such/folder")
    for path in ("./qwen", "../models/qwen", "models/qwen/", "a/b/c"):
        with pytest.raises(UserError, match=r"no such folder; expected one with config\.json"):
            download(path)
