"""The commands that pages show exist, and take the options that they are shown with."""

import re
import shlex

import pytest
from load import ROOT
from support.commands import SESSIONS, SHARED, exists, figures, program_of

FENCE = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
STARTS = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:nox -s|python dev/)")
NOXFILE = (ROOT / "noxfile.py").read_text(encoding="utf-8")
PAGE = ROOT / "docs" / "run-on-your-gpu.md"


def commands_of(text):
    """Return the commands of a page, in code blocks and in lines of text."""
    blocks = [line for block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    indented = [line for line in text.splitlines() if line.startswith("    ")]
    found = [line.strip() for line in [*blocks, *indented, *INLINE.findall(FENCE.sub("", text))]]
    return [line.partition(" #")[0].rpartition("&& ")[2] for line in found if STARTS.match(line.rpartition("&& ")[2])]


def module_and_words(command):
    """Return the pack's module that a command runs in the end, "" for none, and the words after it."""
    words = [word for word in shlex.split(command) if not re.match(r"^[A-Z_]+=", word)]
    if words[0] == "python":
        return (words[2], words[3:]) if words[1] == "dev/host" and len(words) > 2 else ("", [])
    session, given = words[2], words[4:] if words[3:4] == ["--"] else []
    if session == "run":
        return (given[0], given[1:]) if given else ("", [])
    if given[:1] == ["unlearn_canvas"]:
        return "benchmarks.unlearn_canvas", given[1:]
    function = next(function for name, function in SESSIONS if session in (name, function))
    body = NOXFILE.partition(f"def {function}(")[2].partition("@nox.session")[0]
    called = re.search(r'"dev/host", "([\w.]+)"', body)
    return called.group(1) if called else "", given


def declared(module):
    """Return the options that a module's files declare."""
    path = ROOT.joinpath(*module.split("."))
    sources = [path.with_suffix(".py")] if path.with_suffix(".py").is_file() else sorted(path.glob("*.py"))
    text = "".join(source.read_text(encoding="utf-8") for source in [*sources, *SHARED])
    return set(re.findall(r'"(--[a-z-]+)"', text)) | {"--help"}


def faults(command):
    """Return what is wrong with a command, "" for nothing."""
    program = program_of(command)
    if not exists(program):
        return f"there is no {program}"
    module, words = module_and_words(command)
    # A place for the reader's own module.
    if not module or module == "MODULE":
        return ""
    if not exists(module):
        return f"there is no {module}"
    unknown = [word for word in words if word.startswith("--") and word not in declared(module)]
    return f"{module} does not know {' '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", list(figures.pages()), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_exist(page):
    found = {command: faults(command) for command in commands_of(page.read_text(encoding="utf-8"))}
    assert not {command: fault for command, fault in found.items() if fault}


@pytest.mark.parametrize(
    "command",
    [
        "nox -s gone",
        "nox -s gpu -- --out x",
        "nox -s run -- benchmarks.gone",
        "nox -s comparison -- unlearn_canvas report --gone",
        "COMFYUI_OPTIONS=--bf16-unet python dev/host benchmarks.conditions --gone",
        "python dev/gone",
    ],
)
def test_a_wrong_command_is_found(command):
    assert commands_of(f"Run `{command}` now.") == commands_of(f"```\n{command}\n```") == [command]
    assert faults(command)


def test_the_commands_on_the_page_for_gpus_are_understood(pack):
    """By the programs themselves, with values in the right places."""
    from concept_erasure.benchmarks.gpu.run import options as gpu
    from concept_erasure.benchmarks.unlearn_canvas.steps import options as unlearn_canvas

    parsers = {"benchmarks.gpu": gpu, "benchmarks.unlearn_canvas": unlearn_canvas}
    given = [module_and_words(command) for command in commands_of(PAGE.read_text(encoding="utf-8"))]
    given = [(module, words) for module, words in given if module]
    assert {module for module, _ in given} == set(parsers)
    for module, words in given:
        parsers[module]().parse_args(words)


def test_the_page_for_gpus_counts_the_images_of_unlearn_canvas(pack):
    from concept_erasure.benchmarks.unlearn_canvas import steps
    from concept_erasure.benchmarks.unlearn_canvas.generate import UNEDITED

    text = PAGE.read_text(encoding="utf-8")
    (part,) = [command for command in commands_of(text) if " generate " in command]
    for row, words in (("the small part", module_and_words(part)[1]), ("all of it", ["generate", "--out", "x"])):
        given = steps.options().parse_args(words)
        images = len(steps.wanted(given))
        counts = [images * len(steps.targets(given, run)) for run in (UNEDITED, "replaced")]
        assert f"| {row} | {counts[0]} | {counts[1]} |" in text


def test_benchmarks_sample_in_the_precision_in_which_the_machine_is_faster(monkeypatch, capsys):
    """On a processor without bfloat16 that is several times slower."""
    import precision
    import torch

    for half, expected in ((0.5, "--bf16-unet"), (0.99, ""), (4.0, "")):
        monkeypatch.setattr(precision, "seconds", lambda dtype, half=half: half if dtype is torch.bfloat16 else 1.0)
        precision.main()
        assert capsys.readouterr().out.strip() == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(precision, "seconds", lambda dtype: 0.1 if dtype is torch.bfloat16 else 1.0)
    precision.main()
    assert capsys.readouterr().out.strip() == "", "ComfyUI chooses for a GPU"


def test_the_layers_are_really_timed():
    import precision
    import torch

    assert 0 < precision.seconds(torch.float32) < float("inf")
