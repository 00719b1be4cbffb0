"""The command-line converter: every format, and SAeUron's pickled activations, streamed and never unpickled."""

import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from load import ROOT
from support.pickled import Reduce
from support.sae_formats import CASES, L, X, write

CONCEPTS = {"Dogs": 0, "Cats": 1, "Sea": 2}
PROMPTS, STEPS = 3, 20


def activations() -> dict[str, np.ndarray]:
    """Concept i has latents 10 i and 10 i + 1 louder than the others; the second in the first half of the steps."""
    rng = np.random.default_rng(0)
    made = {}
    for name, i in CONCEPTS.items():
        values = rng.random((PROMPTS, STEPS, L)) * 0.1
        values[:, :, 10 * i] += 2
        values[:, : STEPS // 2, 10 * i + 1] += 3
        made[name] = values.astype(np.float16)
    return made


WAYS = {
    "numpy, protocol 3": lambda arrays: pickle.dumps(arrays, 3),
    "numpy, protocol 4": lambda arrays: pickle.dumps(arrays, 4),
    "numpy, protocol 5": lambda arrays: pickle.dumps(arrays, 5),
    "numpy single": lambda arrays: pickle.dumps({k: v.astype(np.float32) for k, v in arrays.items()}),
    "torch": lambda arrays: pickle.dumps({k: torch.from_numpy(v) for k, v in arrays.items()}),
    "torch, part of a larger one": lambda arrays: pickle.dumps(
        {k: torch.cat([torch.zeros(1, STEPS, L).half(), torch.from_numpy(v)])[1:] for k, v in arrays.items()}
    ),
}


@pytest.fixture(scope="module")
def saeuron(pack):
    from concept_erasure.sae_models.formats import saeuron

    return saeuron


@pytest.mark.parametrize("way", WAYS)
def test_means_and_latents_are_those_of_the_arrays(saeuron, tmp_path, monkeypatch, way):
    arrays = activations()
    (tmp_path / "cls_latents_dict.pkl").write_bytes(WAYS[way](arrays))
    monkeypatch.setattr(saeuron, "BLOCK_BYTES", 7 * L * 2)  # blocks that end in the middle of a prompt
    found = saeuron.read_dictionary(tmp_path / "cls_latents_dict.pkl", bands=2, features=2)
    # The first steps are the noisiest: timesteps 951 to 501, the last band.
    bands = {0: slice(STEPS // 2, STEPS), 1: slice(0, STEPS // 2)}
    means = {name: [values[:, bands[b]].astype(float).mean((0, 1)) for b in (0, 1)] for name, values in arrays.items()}
    typical = np.mean(list(means.values()), 0)
    np.testing.assert_allclose(found.feature_means.numpy(), typical, rtol=1e-5)
    assert found.names() == sorted(CONCEPTS) and found.band_edges == (0, 500, 1000)
    for name, i in CONCEPTS.items():
        concept = found.concepts[name]
        assert concept.combine == "any"
        assert concept.bands[0].features[0] == 10 * i and set(concept.bands[1].features) == {10 * i, 10 * i + 1}
        for b, band in enumerate(concept.bands):
            index = list(band.features)
            others = np.mean([means[other][b] for other in CONCEPTS if other != name], 0)
            scores = means[name][b] / means[name][b].sum() - others / others.sum()
            np.testing.assert_allclose(band.means, means[name][b][index], rtol=1e-5)
            np.testing.assert_allclose(band.thresholds, typical[b][index], rtol=1e-5)
            np.testing.assert_allclose(band.scores, scores[index], rtol=1e-3)
            assert scores[index[0]] == scores.max()


MEASURE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sae_models.formats import saeuron
path = Path(sys.argv[2])

def memory(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(kind)))

Path("/proc/self/clear_refs").write_text("5")  # else the highest mark is that of importing torch
before = memory("VmRSS")
with path.open("rb") as file:
    arrays = saeuron.stored_arrays(file, path.stat().st_size)
    assert [array.shape for array in arrays.values()] == [(150, 100, 20480)] * 2
    assert not saeuron.band_means(file, arrays["b"], 10).any()
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's accounts of memory")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """1.2 GB, most of them holes in the file; half of it is read within 150 MB."""
    prompts, steps, latents = 150, 100, 20480
    small = pickle.dumps({"a": np.ones((1, 1, 77), np.float16), "b": np.ones((1, 1, 77), np.float16)}, 5)
    pieces = small.split(b"\x96" + (154).to_bytes(8, "little"))
    path = tmp_path / "large.pkl"
    size = prompts * steps * latents * 2
    with path.open("wb") as file:
        file.write(pieces[0].replace(small[2:11], b""))
        for piece in pieces[1:]:
            file.write(b"\x96" + size.to_bytes(8, "little"))
            file.seek(size, 1)
            rest = piece[154:]
            shape = b"K\x01K\x01KM\x87"
            larger = b"K" + bytes([prompts]) + b"K" + bytes([steps]) + b"M" + latents.to_bytes(2, "little") + b"\x87"
            # The second array's shape is equal but pickled anew.
            file.write(rest.replace(shape, larger))
    command = [sys.executable, "-c", MEASURE, str(ROOT), str(path)]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 150 * 1024


def damaged(change):
    arrays = activations()
    change(arrays)
    return pickle.dumps(arrays)


SHAPE, LARGER = b"K\x03K\x14K0\x87", b"K\xffK\x14K0\x87"  # (3, 20, 48), (255, 20, 48)
COUNT = (PROMPTS * STEPS * L).to_bytes(8, "little")


def set_value(value):
    def change(arrays):
        arrays["Cats"][0, 3, 5] = value

    return change


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (damaged(set_value(np.nan)), "negative, NaN or infinite"),
        (damaged(set_value(np.inf)), "negative, NaN or infinite"),
        (damaged(set_value(-1)), "negative, NaN or infinite"),
        (damaged(lambda arrays: arrays.update(Cats=arrays["Cats"][:, ::2])), "different numbers of steps"),
        (damaged(lambda arrays: arrays.update(Cats=arrays["Cats"][0])), "no array .* for Cats"),
        (damaged(lambda arrays: arrays.update(Cats=arrays["Cats"].astype(int))), "no array .* for Cats"),
        (damaged(lambda arrays: arrays.update(Cats=arrays["Cats"].T)), "no array .* for Cats"),
        (damaged(lambda arrays: arrays.update(Cats=7)), "no array for Cats"),
        (damaged(lambda arrays: arrays.update({"a\nb": arrays["Cats"]})), "proper name"),
        (damaged(lambda arrays: arrays.update({7: arrays["Cats"]})), "proper name"),
        (pickle.dumps([1, 2]), "no dictionary"),
        (pickle.dumps({}), "no dictionary"),
        (damaged(lambda arrays: None)[:-2000], "ends too early"),
        (b"", "ends too early"),
        (b"PK\x03\x04", "an instruction that data does not need"),
        (damaged(lambda arrays: None).replace(SHAPE, LARGER), "lacks numbers"),
        (WAYS["numpy, protocol 5"](activations()).replace(SHAPE, LARGER), "lacks numbers"),
        (WAYS["torch"](activations()).replace(SHAPE, LARGER), "no array .* for Dogs|lacks numbers"),
        (WAYS["torch"](activations()).replace(COUNT, COUNT[:-1] + b"\x7f"), "a storage ends too early"),
        (damaged(lambda arrays: arrays.update(Cats=Reduce(bytearray, 10**11))), "would run builtins.bytearray"),
        (damaged(lambda arrays: arrays.update(Cats=Reduce(eval, "1"))), "would run builtins.eval"),
    ],
)
def test_other_pickles_are_refused(saeuron, tmp_path, content, reason):
    from concept_erasure.sae_models.formats.native import SAEFileError

    path = tmp_path / "cls.pkl"
    path.write_bytes(content)
    with pytest.raises(SAEFileError, match=rf"cls\.pkl: .*{reason}"):
        saeuron.read_dictionary(path)


def test_code_in_a_pickle_is_never_run(saeuron, tmp_path):
    from concept_erasure.sae_models.formats.native import SAEFileError

    trap = tmp_path / "trap"
    (tmp_path / "cls.pkl").write_bytes(pickle.dumps({**activations(), "x": Reduce(Path.mkdir, trap)}))
    with pytest.raises(SAEFileError, match="would run"):
        saeuron.read_dictionary(tmp_path / "cls.pkl")
    assert not trap.exists()


@settings(max_examples=150, deadline=None)
@given(way=st.sampled_from(sorted(WAYS)), data=st.data())
def test_changed_pickles_are_refused_or_read(saeuron, way, data):
    """Whatever happens to what surrounds the numbers: refused, or arrays that lie in the file."""
    small = {name: values[:1, :1, :3].copy() for name, values in activations().items()}
    content = bytearray(pickle.dumps({k: torch.from_numpy(v) for k, v in small.items()})) if "torch" in way else None
    content = content or bytearray(WAYS[way](small))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = io.BytesIO(content)
    try:
        arrays = saeuron.stored_arrays(file, len(content))
    except saeuron.PickleRefused:
        return
    for array in arrays.values():
        assert array.start >= 0 and array.start + array.size <= len(content)


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    """Run the converter as a user does, in a Python that has never heard of ComfyUI."""
    command = [sys.executable, "-m", "sae_models.formats.convert", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_line_makes_a_file_with_concepts(pack, tmp_path):
    from concept_erasure.sae_models.formats import open_sae

    source, target = write(tmp_path, "saeuron"), tmp_path / "objects.safetensors"
    (tmp_path / "cls.pkl").write_bytes(WAYS["torch"](activations()))
    done = run(source, target, "--activations", tmp_path / "cls.pkl", "--bands", "4", "--features", "1")
    assert done.returncode == 0, done.stderr
    assert "output_blocks.4.1, 3 concepts" in done.stdout
    file = open_sae(target)
    assert file.concept_names() == sorted(CONCEPTS)
    assert file.dictionary().concepts["Cats"].bands[0].features == (10,)
    assert file.facts["converted_from"] == source.name
    before = target.read_bytes()
    again = run(source, target)
    assert again.returncode and "--overwrite" in again.stderr and target.read_bytes() == before


@pytest.mark.parametrize("case", CASES)
def test_every_format_is_converted(pack, case, tmp_path):
    from concept_erasure.sae_models.formats import open_sae
    from concept_erasure.sae_models.formats.convert import main

    source, target = write(tmp_path, case), tmp_path / "new" / "native.safetensors"
    main([str(source), str(target), "--hookpoint", "mid_block.attentions.0"])
    made, original = open_sae(target), open_sae(source)
    assert made.config.hookpoint == "middle_block.1"
    sae, expected = made.load(), original.load()
    assert torch.equal(sae.encode_dense(X), expected.encode_dense(X))
    made.load_decoder(sae)
    original.load_decoder(expected)
    assert torch.equal(sae(X), expected(X))


def test_wrong_arguments_are_explained(pack, tmp_path):
    from concept_erasure.sae_models.formats.convert import main

    source = write(tmp_path, "saeuron")
    other = {name: values[:, :, : L - 1] for name, values in activations().items()}
    (tmp_path / "other.pkl").write_bytes(pickle.dumps(other))
    target = str(tmp_path / "x.safetensors")
    for arguments, reason in (
        ([str(source), str(tmp_path / "x.pt")], "must end in"),
        ([str(tmp_path / "nothing"), target], "nothing"),
        ([str(source), target, "--activations", str(tmp_path / "other.pkl")], "speaks of 47 features, .* has 48"),
        ([str(source), target, "--activations", str(tmp_path / "none.pkl")], "none.pkl"),
        ([str(source), target, "--activations", str(tmp_path / "other.pkl"), "--bands", "21"], "fewer bands"),
        ([str(source), target, "--activations", str(tmp_path / "other.pkl"), "--bands", "0"], "1 or more"),
    ):
        with pytest.raises(SystemExit, match=reason):
            main(arguments)
        assert not Path(target).exists()
