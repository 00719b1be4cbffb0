"""Install, disable, enable, update and uninstall the pack with ComfyUI-Manager's own command line: ``nox -s manager``.

The archive is what the Comfy Registry would hold. It comes from a registry on this machine, because a version that is
not published yet is in no other: only the address that the Manager asks is changed. After each command a real ComfyUI
starts and says which nodes it has. The Manager lives in an environment of its own and is no part of the suite, hence
the name without ``test_``.
"""

import contextlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "dev" / "host"))
from live_server import LiveServer
from load import ROOT, comfyui_path
from published import FOLDER, published_files

OLDER, NEWER = "0.0.1", "0.0.2"
LEFT_OVER = "nodes/only_in_the_older_version.py"
UNTRUSTED = {"models", "output", "temp", "user", "custom_nodes", "input"}  # of the ComfyUI that is copied
# The Manager as it is, but for the address of the registry. Without arguments: what is done at ComfyUI's next start,
# for which the Manager starts its program once more.
MANAGER = """
import os, sys
sys.path.append(os.environ["COMFYUI_PATH"])
from comfyui_manager.common import cnr_utils
cnr_utils.base_url = os.environ["TEST_REGISTRY"]
if sys.argv[1:]:
    from cm_cli.__main__ import app
    app()
else:
    import comfyui_manager
    comfyui_manager.prestartup()
"""


def archive(version: str) -> bytes:
    """Return the archive of a version; the older one has a file more, which nothing uses."""
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in published_files():
            content = (ROOT / path).read_bytes()
            if path.as_posix() == "pyproject.toml":
                content = re.sub(rb'(?m)^version = ".*"$', f'version = "{version}"'.encode(), content, count=1)
            packed.writestr(path.as_posix(), content)
        if version == OLDER:
            packed.writestr(LEFT_OVER, "raise RuntimeError('was left over')")
    return buffer.getvalue()


class Registry(http.server.BaseHTTPRequestHandler):
    """What the Manager asks of the Comfy Registry."""

    latest = OLDER
    archives: dict[str, bytes] = {}

    def do_GET(self) -> None:
        address, _, query = self.path.partition("?")
        asked = re.search(r"version=([\d.]+)", query)
        version = asked[1] if asked and address.endswith("/install") else self.latest
        if address == "/nodes":
            self._json({"nodes": [self._pack()], "totalPages": 1, "page": 1})
        elif address == f"/nodes/{FOLDER}/install":
            self._json(self._version(version))
        elif address == f"/nodes/{FOLDER}/versions":
            self._json([self._version(self.latest)])
        elif address.startswith("/archives/"):
            self._send(self.archives[address.rpartition("/")[2].removesuffix(".zip")], "application/zip")
        else:
            self.send_error(404)

    def _pack(self) -> dict[str, Any]:
        return {"id": FOLDER, "name": FOLDER, "latest_version": self._version(self.latest), "publisher": {"id": FOLDER}}

    def _version(self, version: str) -> dict[str, Any]:
        host = self.headers["Host"]
        return {
            "id": f"{FOLDER}-{version}",
            "version": version,
            "downloadUrl": f"http://{host}/archives/{version}.zip",
            "status": "NodeVersionStatusActive",
            "dependencies": [],
        }

    def _json(self, content: Any) -> None:
        self._send(json.dumps(content).encode(), "application/json")

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the Manager looks first whether it is led elsewhere
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    """The address of a registry that knows the pack."""
    Registry.archives = {version: archive(version) for version in (OLDER, NEWER)}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh ComfyUI, without anyone's models and nodes."""
    source, tree = comfyui_path(), tmp_path_factory.mktemp("fresh") / "ComfyUI"
    ignored = shutil.ignore_patterns("__pycache__", ".git", "tests*")
    tree.mkdir()
    for entry in source.iterdir():
        if entry.name in UNTRUSTED or entry.name.startswith("."):
            continue
        if entry.is_dir():
            shutil.copytree(entry, tree / entry.name, ignore=ignored)
        else:
            shutil.copyfile(entry, tree / entry.name)
    for name in UNTRUSTED:
        (tree / name).mkdir()
    return tree


def manager(comfyui: Path, registry: str, *arguments: str) -> str:
    """Run the Manager's command line, or what it does at the next start; return what it printed."""
    program = comfyui.parent / "manager.py"
    program.write_text(MANAGER, encoding="utf-8")
    told = {"COMFYUI_PATH": str(comfyui), "TEST_REGISTRY": registry, "COLUMNS": "200", "PYTHONIOENCODING": "utf-8"}
    environment = {**os.environ, **told}
    command = [sys.executable, str(program), *arguments]
    done = subprocess.run(
        command, cwd=comfyui, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    said = done.stdout.decode("utf-8", errors="replace")
    assert done.returncode == 0, said
    return said


def nodes_of(comfyui: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    """Return how many of the pack's nodes a ComfyUI has that starts now."""
    paths = tmp_path / "paths.yaml"
    paths.write_text(json.dumps({"fresh": {"custom_nodes": str(comfyui / "custom_nodes")}}))
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    with LiveServer("--extra-model-paths-config", str(paths), with_pack=False) as server:
        assert "IMPORT FAILED): " not in server.log(), server.log()  # of a custom node
        return sum(name.startswith("ConceptErasure") for name in server.object_info())


def test_the_manager_takes_it_through_its_whole_life(comfyui, registry, monkeypatch, tmp_path):
    def do(*arguments: str) -> str:
        return manager(comfyui, registry, *arguments, FOLDER, "--mode", "local")

    folder = comfyui / "custom_nodes" / FOLDER
    saved = comfyui / "models" / "sae" / "mine.safetensors"
    said = do("install")
    assert (folder / "__init__.py").is_file() and (folder / LEFT_OVER).is_file(), said
    count = nodes_of(comfyui, monkeypatch, tmp_path)
    assert count > 10
    saved.parent.mkdir(parents=True)
    saved.write_bytes(b"an artist's")

    said = do("disable")
    assert not folder.exists(), said
    assert nodes_of(comfyui, monkeypatch, tmp_path) == 0

    said = do("enable")
    assert folder.is_dir(), said
    assert nodes_of(comfyui, monkeypatch, tmp_path) == count

    monkeypatch.setattr(Registry, "latest", NEWER)
    said = do("update")
    said += manager(comfyui, registry)
    assert f'version = "{NEWER}"' in (folder / "pyproject.toml").read_text(encoding="utf-8"), said
    # Version 4.3 looks for what the newer one lacks in the wrong folder and leaves it; it must do no harm there.
    assert nodes_of(comfyui, monkeypatch, tmp_path) == count

    said = do("uninstall")
    said += manager(comfyui, registry)
    assert not folder.exists(), said
    assert saved.read_bytes() == b"an artist's", "what the artist has saved stays"
    assert nodes_of(comfyui, monkeypatch, tmp_path) == 0
