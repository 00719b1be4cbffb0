"""A real ComfyUI server in a process of its own, with the pack installed as a user would have it.

``with LiveServer() as server: images = server.run(prompt)``. The server works in a temporary folder, and ends
with the ``with`` block, or with this process, however that ends.
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from load import comfyui_path, options
from published import install

# Runs ComfyUI's main.py as it is, and ends when our end of standard input closes: that happens even when this
# process is killed, on every platform, so no server is ever left behind.
TIED = """
import os, runpy, sys, threading
def watch():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=watch, daemon=True).start()
tools = sys.argv.pop(1)
if "--enable-dynamic-vram" in sys.argv:
    sys.path[0] = tools
    from dynamic import allow_without_gpu
    allow_without_gpu()
sys.path[0] = os.getcwd()
runpy.run_path("main.py", run_name="__main__")
"""
START_LIMIT = 240.0
LOG_TAIL = 40


class ServerError(RuntimeError):
    """The server, or a workflow on it, failed; the message says where and ends with the server's log."""


class Server:
    """A running ComfyUI server, on whatever machine.

    Args:
        url: its address.
    """

    def __init__(self, url: str) -> None:
        """Take the address, without a slash at the end; nothing is asked of the server yet."""
        self.url = url.rstrip("/")

    def log(self, lines: int | None = None) -> str:
        """Return what the server has printed; nothing is known of one that others started."""
        return ""

    def check_alive(self) -> None:
        """Raise ServerError if the server has ended, where that is known."""

    def get(self, path: str) -> Any:
        """Return the JSON that the server answers to ``GET path``."""
        return json.loads(self.fetch(path))

    def fetch(self, path: str) -> bytes:
        """Return the bytes that the server answers to ``GET path``."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return bytes(answer.read())

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Post JSON and return the answer's JSON (None where it is empty).

        Raises:
            ServerError: the server refused; the message names the nodes and inputs it objects to.
        """
        request = urllib.request.Request(
            self.url + path, json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise ServerError(refusal(error.read().decode(errors="replace"))) from None
        return json.loads(text) if text else None

    def object_info(self) -> dict[str, Any]:
        """Return the description of every node type the server knows."""
        info: dict[str, Any] = self.get("/object_info")
        return info

    def submit(self, prompt: dict[str, Any]) -> str:
        """Queue a prompt in API format and return its id."""
        return str(self.post("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex})["prompt_id"])

    def wait(self, prompt_id: str, limit: float = 240.0) -> dict[str, Any]:
        """Wait for a queued prompt and return its history entry, whether it went well or not."""
        history = f"/history/{prompt_id}"
        self.wait_until(lambda: bool(self.get(history)), f"prompt {prompt_id} is done", limit)
        entry: dict[str, Any] = self.get(history)[prompt_id]
        return entry

    def wait_until(self, holds: Callable[[], bool], what: str, limit: float = 240.0) -> None:
        """Wait until something holds.

        Raises:
            ServerError: it does not hold in time, or the server has ended; the message has ``what`` was waited for.
        """
        deadline = time.monotonic() + limit
        while not holds():
            self.check_alive()
            if time.monotonic() > deadline:
                raise ServerError(f"Waited {limit:.0f} s in vain until {what}.\n{self.log(LOG_TAIL)}")
            time.sleep(0.1)

    def run(self, prompt: dict[str, Any], limit: float = 240.0) -> dict[str, list[bytes]]:
        """Run a prompt in API format.

        Returns:
            The PNG files each output node showed or saved, by node id.

        Raises:
            ServerError: a node failed, or the server did.
        """
        return self.images(self.wait(self.submit(prompt), limit))

    def images(self, entry: dict[str, Any]) -> dict[str, list[bytes]]:
        """Return the PNG files of a history entry, by node id.

        Raises:
            ServerError: the prompt did not end well.
        """
        if entry["status"]["status_str"] != "success":
            raise ServerError(f"{failure(entry)}\n{self.log(LOG_TAIL)}")
        return {
            node: [self.fetch("/view?" + urllib.parse.urlencode(image)) for image in shown.get("images", [])]
            for node, shown in entry["outputs"].items()
        }

    def forget(self) -> None:
        """Drop the server's cached results and models, so that the next run computes everything again."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        # The server's worker takes a waiting prompt before it looks at this wish, so give it the time to wake up.
        time.sleep(0.5)


class LiveServer(Server):
    """A ComfyUI server on a free local port.

    Attributes:
        folder: its base directory (``input/``, ``output/``, ``models/``, ``custom_nodes/``).
        url: its address, without a slash at the end.
    """

    def __init__(self, *arguments: str, with_pack: bool = True) -> None:
        """Choose the folder and the port; ``arguments`` are added to ComfyUI's command line."""
        self._temporary = tempfile.TemporaryDirectory(prefix="comfyui-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self._port = free_port()
        super().__init__(f"http://127.0.0.1:{self._port}")
        self._arguments = arguments
        self._with_pack = with_pack
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "LiveServer":
        """Start the server and wait until it answers."""
        for name in ("input", "output", "models", "custom_nodes", "user"):
            (self.folder / name).mkdir()
        if self._with_pack:
            install(self.folder / "custom_nodes")
        command = [
            sys.executable,
            "-c",
            TIED,
            str(Path(__file__).parent),
            "--cpu",
            "--base-directory",
            str(self.folder),
        ]
        command += ["--port", str(self._port), "--disable-auto-launch", "--disable-api-nodes"]
        # The default database lies in ComfyUI's own tree, where two servers would meet.
        command += ["--database-url", "sqlite:///:memory:", *options(), *self._arguments]
        with (self.folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=comfyui_path(), stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server and remove its folder."""
        self.close()

    def close(self) -> None:
        """Stop the server and remove its folder; a second call does nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin:
                self._process.stdin.close()
            self._process = None
        self._temporary.cleanup()

    @property
    def pid(self) -> int:
        """The process of the running server."""
        assert self._process is not None
        return self._process.pid

    def log(self, lines: int | None = None) -> str:
        """Return what the server has printed, or its last ``lines`` lines."""
        text = (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:]) if lines else text

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            self.check_alive()
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.1)
        raise ServerError(f"ComfyUI does not answer after {START_LIMIT:.0f} s.\n{self.log(LOG_TAIL)}")

    def check_alive(self) -> None:
        """Raise ServerError if the process has ended."""
        if self._process is None or self._process.poll() is not None:
            raise ServerError(f"ComfyUI has ended.\n{self.log(LOG_TAIL)}")


def refusal(text: str) -> str:
    """Return what a refused prompt's answer says, one line for each input it names."""
    try:
        answer = json.loads(text)
    except json.JSONDecodeError:
        return text
    lines = [f"{answer['error']['message']} {answer['error'].get('details', '')}".strip()]
    for node, problem in answer.get("node_errors", {}).items():
        lines += [
            f"  {problem['class_type']} ({node}): {each['message']}: {each['details']}" for each in problem["errors"]
        ]
    return "\n".join(lines)


def cached_nodes(entry: dict[str, Any]) -> list[str]:
    """Return the ids of the nodes that a prompt took from the server's cache, given its history entry."""
    return [node for kind, data in entry["status"]["messages"] if kind == "execution_cached" for node in data["nodes"]]


def failure(entry: dict[str, Any]) -> str:
    """Return what stopped a prompt, given its history entry: node type, node id and the error's text."""
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_error":
            return f"{data['node_type']} ({data['node_id']}): {data['exception_message'].strip()}"
        if kind == "execution_interrupted":
            return f"Interrupted in {data['node_type']} ({data['node_id']})."
    return f"Ended as {entry['status']['status_str']!r}."


def free_port() -> int:
    """Return a local port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
