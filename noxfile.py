"""The project's commands; ``nox --list`` shows them.

All sessions share one environment in ``.host/``, made on first use by dev/host/prepare.py: torch alone is several
GB, so an environment for each session would cost far more than it isolates. ``compare``, ``trainers`` and
``comparison -- unlearn_canvas`` alone add libraries that must not be in it, and put them into others that borrow the
rest.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
CHECKED = (
    "sae_models",
    "unet",
    "erasure",
    "finding",
    "steering",
    "reports",
    "training",
    "demo_model",
    "nodes",
    "dev.demo_model",
)
# glibc gives freed memory back and then faults it in again, page by page: up to half of the time of a sampling run, in
# one run of the same code and not in the next.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2 * 10**9), "MALLOC_MMAP_THRESHOLD_": str(2**25)}

# The tests' models are small: two threads on one of them take longer than one, and two processes half as long.
ONE_THREAD = {"OMP_NUM_THREADS": "1", **KEEP_MEMORY}
TWO_PROCESSES = ("-n", "2", "--dist", "loadfile")

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["tests", "lint"]
nox.options.default_venv_backend = "none"


@nox.session
def demo(session: nox.Session) -> None:
    """Render one seed with and without a concept on a real ComfyUI server, into demo_output/."""
    session.run(prepare(session), "dev/host/demo.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests in the real ComfyUI, its server and its browser frontend; all of them in two processes."""
    session.run(prepare(session), "-m", "pytest", *(session.posargs or TWO_PROCESSES), env=ONE_THREAD)


@nox.session
def research(session: nox.Session) -> None:
    """Run the tests of what only the benchmarks need, of the demo model's quality, and of long workflows in full."""
    session.run(prepare(session), "-m", "pytest", "-m", "research", *session.posargs)


@nox.session
def frontends(session: nox.Session) -> None:
    """Run the browser tests on the newest frontend on PyPI, beside the one that the test host has."""
    python = prepare(session)
    folder = ROOT / ".host" / "frontend"
    session.run(*pip(python), "--no-deps", "--upgrade", "--target", str(folder), "comfyui-frontend-package")
    static = folder / "comfyui_frontend_package" / "static"
    options = f"{os.environ.get('COMFYUI_OPTIONS', '')} --front-end-root {shlex.quote(str(static))}"
    session.run(python, "-m", "pytest", "-m", "browser", *session.posargs, env={"COMFYUI_OPTIONS": options})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and types."""
    python = prepare(session)
    session.run(python, "-m", "ruff", "check", ".")
    session.run(python, "-m", "ruff", "format", "--check", ".")
    modules = [f"--module={path.stem}" for path in sorted((ROOT / "dev" / "host").glob("[a-z]*.py"))]
    packages = [f"--package=concept_erasure.{name}" for name in CHECKED]
    search = os.pathsep.join([str(named_link()), str(ROOT / "dev" / "host")])
    session.run(python, "-m", "mypy", *modules, *packages, env={"MYPYPATH": search})


@nox.session
def fuzz(session: nox.Session) -> None:
    """Let 10,000 damaged files of every format be read."""
    session.run(prepare(session), "dev/host", "benchmarks.fuzz", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Let one server run 300 prompts of every kind, interrupts and errors among them, and watch its memory."""
    session.run(prepare(session), "dev/host", "benchmarks.soak", *session.posargs, env=KEEP_MEMORY)


@nox.session
def mutants(session: nox.Session) -> None:
    """Change the code in 300 places, one at a time, and see whether the tests notice (hours; goes on where it was)."""
    session.run(prepare(session), "dev/mutants", *session.posargs)


@nox.session
def manager(session: nox.Session) -> None:
    """Install, disable, enable, update and uninstall the archive with ComfyUI-Manager's own command line."""
    interpreter = prepare(session, "manager")
    session.run(*pip(interpreter), "comfyui-manager==4.3")
    session.run(interpreter, "-m", "pytest", "--noconftest", "tests/install_by_manager.py", *session.posargs)


@nox.session
def figures(session: nox.Session) -> None:
    """Write the figures of docs/figures/ into the pages that show them."""
    session.run("python", "dev/figures", *session.posargs, external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what the pack costs: sampling step, hooks now and before, loading, start-up."""
    session.run(prepare(session), "dev/host", "benchmarks.cost", *session.posargs, env=KEEP_MEMORY)


@nox.session
def gpu(session: nox.Session) -> None:
    """Measure what the pack costs on a GPU, in under 8 minutes: benchmarks/gpu/README.md."""
    session.run(prepare(session), "dev/host", "benchmarks.gpu", *session.posargs)


@nox.session(name="comparison")
def compare_methods(session: nox.Session) -> None:
    """Repeat the paper's comparison on the demo model (an hour), or, with ``-- unlearn_canvas``, on its own model."""
    if session.posargs[:1] != ["unlearn_canvas"]:
        python = prepare(session)
        env = {"COMFYUI_OPTIONS": faster_options(python), **KEEP_MEMORY}
        session.run(python, "dev/host", "benchmarks.comparison", *session.posargs, env=env)
        return
    interpreter = prepare(session, "unlearn_canvas")
    session.run(*pip(interpreter), "timm==1.0.31")
    session.run(interpreter, "dev/host", "benchmarks.unlearn_canvas", *session.posargs[1:])


@nox.session
def compare(session: nox.Session) -> None:
    """Read files that the public SAE libraries write, and check against those libraries (fetches 600 MB)."""
    interpreter = libraries(session)
    session.run(interpreter, "-m", "pytest", "--noconftest", "tests/compare_libraries.py", *session.posargs)


@nox.session
def trainers(session: nox.Session) -> None:
    """Train beside the public SAE libraries on the same activations: speed and what is explained (fetches 600 MB)."""
    interpreter = libraries(session)
    session.run(interpreter, "dev/host", "benchmarks.trainers", *session.posargs)


@nox.session
def run(session: nox.Session) -> None:
    """Run one of the pack's modules inside ComfyUI: ``nox -s run -- dev.demo_model.train_unet --steps 5``."""
    session.run(prepare(session), "dev/host", *session.posargs, env=KEEP_MEMORY)


def pip(interpreter: str) -> tuple[str, ...]:
    """Return the command that installs into an environment."""
    return interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"


def libraries(session: nox.Session) -> str:
    """Make the environment of the public SAE libraries; return its interpreter."""
    interpreter = prepare(session, "compare")
    session.run(*pip(interpreter), "-r", "tests/compare-requirements.txt")
    # It pins an old nnsight and much else to gather activations from language models; to load a file it needs none.
    session.run(*pip(interpreter), "--no-deps", "dictionary-learning==0.1.0")
    return interpreter


def prepare(session: nox.Session, *name: str) -> str:
    """Make ComfyUI and the environment where they are missing; return the environment's interpreter.

    With a name: an environment in ``.host/`` that borrows what the usual one has.
    """
    session.chdir(ROOT)
    done = subprocess.run([sys.executable, "dev/host/prepare.py", *name], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        session.error("The test host could not be made; the reason is above.")
    return done.stdout.strip()


def faster_options(python: str) -> str:
    """Return ComfyUI's options: those of the environment, else the precision in which this machine is faster."""
    if "COMFYUI_OPTIONS" in os.environ:
        return os.environ["COMFYUI_OPTIONS"]
    return subprocess.run(
        [python, "dev/host/precision.py"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def named_link() -> Path:
    """Return a folder in which this repository is called ``concept_erasure``.

    The imports inside the pack are relative and its folder may have any name, which mypy cannot follow.
    """
    folder = ROOT / ".host" / "named"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "concept_erasure"
    if not link.exists():
        link.symlink_to(ROOT, target_is_directory=True)
    return folder
