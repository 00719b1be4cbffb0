"""The process that reads: one line of JSON asks for a file, one says what came of it.

It answers ``outcome`` (``read`` or ``refused``, else the name of an exception that no caller expects), ``said`` (the
message) or ``digest``, ``memory`` (bytes at most beyond what was held before, -1 where that is not known) and
``seconds`` of CPU time.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from .reading import READERS

ACCOUNTS = Path("/proc/self/status")  # of Linux
SPARE = 3 * 2**30  # bytes of addresses beyond those at the start


def main() -> None:
    """Answer until there is nothing more to read."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # whatever else is printed is no answer
    limit_addresses()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(answer(asked["kind"], Path(asked["path"]))), file=answers, flush=True)


def answer(kind: str, path: Path) -> dict[str, Any]:
    """Read a file; return what is to be said of it."""
    read, expected = READERS[kind]
    before, start = begin(), time.process_time()
    said: dict[str, Any]
    try:
        said = {"outcome": "read", "digest": read(path)}
    except expected as error:
        said = {"outcome": "refused", "said": str(error)}
    except Exception as error:
        said = {"outcome": type(error).__name__, "said": str(error)[:500]}
    memory = most() - before if ACCOUNTS.exists() else -1
    return {**said, "memory": memory, "seconds": time.process_time() - start}


def begin() -> int:
    """Forget the highest mark of memory; return what is held now."""
    if not ACCOUNTS.exists():
        return 0
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _account("VmRSS")


def most() -> int:
    """Return the most that was held since ``begin``, files that are mapped included."""
    return _account("VmHWM")


def limit_addresses() -> None:
    """Let a file that asks for all memory fail here and not take the machine with it."""
    if ACCOUNTS.exists():
        import resource

        most_addresses = _account("VmSize") + SPARE
        resource.setrlimit(resource.RLIMIT_AS, (most_addresses, most_addresses))


def _account(name: str) -> int:
    line = next(line for line in ACCOUNTS.read_text(encoding="ascii").splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
