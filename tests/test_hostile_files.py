"""Files made to hurt: each is refused quickly, by name and reason, and allocates nothing large."""

import contextlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from load import ROOT
from safetensors.torch import save_file
from support.pickled import Reduce
from support.sae_formats import CASES, NATIVE, D, L, N, X, write

GIB = 2**30
OPEN = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sae_models.formats import open_sae
from sae_models.formats.native import SAEFileError

def memory(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(kind)))

for path in sys.argv[2:]:
    Path("/proc/self/clear_refs").write_text("5")  # else the highest mark is that of importing torch
    size, seconds = memory("VmRSS"), resource.getrusage(resource.RUSAGE_SELF).ru_utime
    try:
        open_sae(path, "output_blocks.4.1").load()
        said = "loaded"
    except SAEFileError as error:
        said = f"refused: {error}"
    cost = (memory("VmHWM") - size, resource.getrusage(resource.RUSAGE_SELF).ru_utime - seconds)
    print(said.replace("\\n", " "), *cost, sep="|", flush=True)
"""


def limits() -> None:
    """Bound this process, in Linux's ways, which not every system has."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (6 * GIB, 6 * GIB))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, tuple[str, int, float]]:
    """What opening each harmful file gives, in one process that may take 6 GiB and a minute: text, KiB, seconds."""
    paths = {}
    for harm in HARMS:
        paths[harm.__name__] = write(tmp_path_factory.mktemp(harm.__name__), "dictionary_learning")
        harm(paths[harm.__name__] / "ae.pt", dict(CASES["dictionary_learning"][1]))
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(ROOT), *map(str, paths.values())],
        capture_output=True,
        text=True,
        preexec_fn=limits,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    lines = [line.rsplit("|", 2) for line in done.stdout.splitlines()]
    told = {name: (text, int(size), float(time)) for name, (text, size, time) in zip(paths, lines, strict=False)}
    return {name: told.get(name, (f"the process died: {done.stderr[-500:]}", 0, 0.0)) for name in paths}


def expanded(path, tensors):
    """A few bytes that claim to be 256 GiB, in shapes that agree."""
    latents, width = 2**20, 2**16
    sizes = {"encoder.weight": (latents, width), "decoder.weight": (width, latents), "encoder.bias": (latents,)}
    for key, size in {**sizes, "bias": (width,)}.items():
        tensors[key] = torch.zeros(1).expand(size)
    (path.parent / "config.json").unlink()
    torch.save(tensors, path)


def without_data(path, tensors):
    tensors["encoder.weight"] = torch.empty(L, D, device="meta")
    torch.save(tensors, path)


def asking_for_memory(path, tensors):
    torch.save({**tensors, "x": Reduce(bytearray, 10 * GIB)}, path)


def running_code(path, tensors):
    torch.save({**tensors, "x": Reduce(os.mkdir, str(path.parent / "trap"))}, path)


def cyclic(path, tensors):
    endless = []
    endless.extend([endless] * 1000)
    torch.save({**tensors, "x": endless}, path)


def many_parts(path, tensors):
    torch.save({**tensors, "x": [[[0] * 300] * 300] * 300}, path)


def many_arrays(path, tensors):
    """4 GiB of empty arrays out of a few kilobytes, each small and by a name that torch allows."""
    torch.save({**tensors, "x": [Reduce(bytearray, 2**20) for _ in range(4096)]}, path)


def sparse(path, tensors):
    tensors["encoder.weight"] = tensors["encoder.weight"].to_sparse()
    torch.save(tensors, path)


def endless_hash(path, tensors):
    """A key whose hash takes 2^60 steps; pickled it is short, since every tuple is written once."""
    key = ()
    for _ in range(60):
        key = (key, key)
    # Hashing it here would take as long, so it is pickled as the member of a list, which is then made a dictionary.
    torch.save({**tensors, "x": [key]}, path)

    def change(content):
        start = content.index(b"X\x01\x00\x00\x00x") + 6
        place = content.index(b"]", start)
        last = content.rindex(b"a", place)
        return content[:place] + b"}" + content[place + 1 : last] + b"Ns" + content[last + 1 :]

    rewrite(path, change)


def without_end(path, tensors):
    torch.save(tensors, path)
    rewrite(path, lambda content: content[:-1])


HARMS = [
    expanded,
    without_data,
    asking_for_memory,
    running_code,
    cyclic,
    many_parts,
    many_arrays,
    sparse,
    endless_hash,
    without_end,
]


def rewrite(path, change, method=zipfile.ZIP_STORED):
    """Change the pickle inside a file of torch.save."""
    buffer = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(path, "w", method) as changed:
        for entry in archive.infolist():
            content = archive.read(entry)
            changed.writestr(entry.filename, change(content) if entry.filename.endswith("data.pkl") else content)


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process by Linux's means")
@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_harmful_torch_files_are_refused(answers, harm):
    text, size, seconds = answers[harm.__name__]
    assert text.startswith("refused") and "ae.pt" in text, text
    assert size < 50 * 1024 and seconds < 10


ALONE = """
import resource, sys
import torch
for line in open("/proc/self/status"):
    if line.startswith("VmSize"):
        most = int(line.split()[1]) * 1024 + 2**29
resource.setrlimit(resource.RLIMIT_AS, (most, most))
used = resource.getrusage(resource.RUSAGE_SELF)
resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 4,) * 2)
torch.load(sys.argv[1], weights_only=True, mmap=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process by Linux's means")
@pytest.mark.parametrize(("harm", "end"), [(endless_hash, "out of time"), (many_arrays, "out of memory")])
def test_torch_alone_would_not_refuse_them(tmp_path, harm, end):
    """Why the pickle is read before (docs/decisions/0007): 3 seconds and 500 MiB are not enough for 80 KB."""
    path = tmp_path / "ae.pt"
    harm(path, {"weight": torch.zeros(2, 2)})
    assert path.stat().st_size < 2**17
    done = subprocess.run([sys.executable, "-c", ALONE, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode
    assert end == ("out of memory" if "MemoryError" in done.stderr else "out of time"), done.stderr
    assert end != "out of time" or done.returncode in (-signal.SIGKILL, -signal.SIGXCPU), done.stderr


def test_a_compressed_archive_is_refused(pack, tmp_path):
    """Its storages cannot be mapped; their compressed bytes would be taken for weights."""
    from concept_erasure.sae_models.formats import open_sae
    from concept_erasure.sae_models.formats.native import SAEFileError

    path = write(tmp_path, "dictionary_learning")
    rewrite(path / "ae.pt", lambda content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(SAEFileError, match=r"ae\.pt.*compressed"):
        open_sae(path, NATIVE)


@pytest.mark.parametrize("value", [1e30, -1e30])
def test_numbers_too_large_for_the_weights_dtype_are_refused(pack, value, tmp_path):
    from concept_erasure.sae_models.formats import open_sae
    from concept_erasure.sae_models.formats.native import SAEFileError

    path = write(tmp_path, "saeuron")
    tensors = {key: tensor.half() for key, tensor in CASES["saeuron"][1].items()}
    save_file({**tensors, "encoder.bias": torch.full((L,), value)}, path / "sae.safetensors")
    with pytest.raises(SAEFileError, match=r"encoder\.bias, as torch\.float16"):
        open_sae(path, NATIVE).load()
    assert open_sae(path, NATIVE).load(dtype=torch.float32)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"k": ' + "9" * 5000 + "}", '{"k": NaN}', "\udcff", "[]", '"x"'])
def test_odd_configurations_are_refused(pack, text, tmp_path):
    from concept_erasure.sae_models.formats import open_sae
    from concept_erasure.sae_models.formats.native import SAEFileError

    path = write(tmp_path, "saeuron")
    (path / "cfg.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SAEFileError, match=r"cfg\.json|k = nan"):
        open_sae(path, NATIVE)
    (path / "cfg.json").write_text(" " * 2**21 + "{}")
    with pytest.raises(SAEFileError, match=r"cfg\.json: is larger"):
        open_sae(path, NATIVE)


ODD = st.sampled_from([None, [], {}, -1, 0, 10**12, 1e400, "x", "", True, {"k": []}, [[]], 2.5])


@settings(max_examples=100, deadline=None)
@given(case=st.sampled_from(sorted(CASES)), data=st.data())
def test_changed_configurations_are_refused_or_load(pack, tmp_path_factory, case, data):
    """Any value in place of any other: an SAEFileError, or latents of the right shape."""
    from concept_erasure.sae_models.formats import open_sae
    from concept_erasure.sae_models.formats.native import SAEFileError

    folder = tmp_path_factory.mktemp("changed")
    path = write(folder, case)
    config = next(part for part in path.iterdir() if part.suffix == ".json")
    settings = json.loads(config.read_text())
    target = settings["trainer"] if "trainer" in settings and data.draw(st.booleans()) else settings
    keys = [*sorted(target), "hookpoint", "sae", "metadata", "activation_fn", "activation_fn_kwargs", "signed"]
    target[data.draw(st.sampled_from(keys))] = data.draw(ODD)
    config.write_text(json.dumps(settings))
    with contextlib.suppress(SAEFileError):
        assert open_sae(path, inside=folder).load(dtype=torch.float32).encode_dense(X).shape == (N, L)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_changed_pickles_are_refused_or_described(pack, data):
    """Whatever happens to its bytes, a pickle is read or refused, and never run."""
    from concept_erasure.sae_models.formats.inert_pickles import PickleRefused, read_pickle

    content = bytearray(pickle.dumps({"cat": [1, 2.5, None, True, ("a", -7)], "dog": {"n": 10**12}, "raw": b"abc"}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    with contextlib.suppress(PickleRefused):
        read_pickle(io.BytesIO(content), end, {"torch.Size"})


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickled_data_is_described(pack, protocol):
    from concept_erasure.sae_models.formats.inert_pickles import Call, read_pickle

    value = {"cat": [1, -2, 2.5, None, True, ("a", (), (1,), (1, 2, 3, 4))], "dog": {"n": -(10**12)}}
    content = pickle.dumps({**value, "made": OrderedDict(x=1)}, protocol)
    read = read_pickle(io.BytesIO(content), len(content), {"collections.OrderedDict"})
    made = read.pop("made")
    assert read == value
    assert isinstance(made, Call) and made.name == "collections.OrderedDict" and made.items == {"x": 1}
