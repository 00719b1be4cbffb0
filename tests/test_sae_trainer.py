"""SAE Trainer: from the shipped model to an SAE that loads, stopped and taken up again, and refusals that help."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from load import ROOT
from PIL import Image
from safetensors.torch import load_file
from support.demo_model import GRID, MIDDLE, SITE, latents, shapes
from support.running import IMAGES, sample, train
from support.scenes import patches_of_scenes

# Trains as the tests below do, without an end, in the folder given; writes to disk every half second.
WITHOUT_END = """
import sys
from pathlib import Path
from load import load_pack
load_pack()
import folder_paths, torch
from concept_erasure import nodes
from concept_erasure.demo_model import checkpoint
from concept_erasure.nodes import files
from concept_erasure.training import session
from concept_erasure.training.from_model import collection
from support.running import train
torch.set_num_threads(1)
folder = Path(sys.argv[1])
folder_paths.folder_names_and_paths["sae"] = ([str(folder / "models" / "sae")], set(files.EXTENSIONS))
folder_paths.output_directory, folder_paths.input_directory = str(folder / "output"), str(folder)
session.SAVE_EVERY = collection.FLUSH_EVERY = 0.5
train(nodes, checkpoint.load(), train_steps=10_000_000)
"""


@pytest.fixture(autouse=True)
def places(sae_folder, tmp_path, monkeypatch):
    """Folders of their own for what is read and written, and one thread: products this small only wait for others."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def patches_of(canvas) -> int:
    """How many patches the SAE's block has for the images that ``train`` asks for."""
    _, height, width = shapes(canvas[0])[SITE]
    return height * width


def state(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "output").glob("sae_training/*"))


def test_a_model_becomes_an_sae(nodes, canvas, tmp_path):
    # On the middle's grid a small image has too few patches for a batch.
    whole = {"samples": latents(4, (GRID, GRID))}
    output = train(nodes, canvas, latent=whole, hookpoints=f"{SITE}, mid_block.attentions.0", name="mine.safetensors")
    sae, curves = output.args
    assert sae.config.hookpoint == SITE and sae.config.num_latents == 256 and sae.config.k == 8
    assert curves.shape[0] == 1 and curves.shape[3] == 3 and curves.min() >= 0 and curves.max() <= 1
    assert curves.std() > 0.05, "something is drawn"
    assert "explained variance 0." in output.ui["text"][0]
    again = nodes.SAELoader.execute(f"mine_{MIDDLE}.safetensors").args[0]
    width = shapes(canvas[0])[MIDDLE][0]
    assert again.config.hookpoint == MIDDLE and again.load_decoder().decoder_weight.shape == (256, width)
    assert again.file.facts["steps"] == 30 and 0 < again.file.facts["explained_variance"] < 1
    assert not state(tmp_path), "collected patches are removed once they are not needed"
    nodes.ConceptDetector.execute(sae, "cat", 1.0, 0.0, 1.0, "3, 5", "union")


def test_training_explains_what_it_never_saw_and_the_guided_latent_finds_its_concept(nodes, canvas):
    """On scenes that no model drew. After 20 steps it is 0.39, and chance for the latent."""
    from concept_erasure.sae_models.scoring import roc_auc
    from concept_erasure.training.quality import measure

    shown = ("A cat", "A dog", "A tower", "A sea", "A cat and a dog")
    prompts = "\n".join(f"{one} image in {style} style" for style in ("photo", "neon", "sketch") for one in shown)
    options = {"prompts": prompts, "guided_concepts": "cat", "images": 24, "steps": 4}
    options["latent"] = {"samples": latents(8, (GRID, GRID))}
    trained = train(nodes, canvas, train_steps=200, features=512, k=16, **options).args[0].load_decoder()
    x, cat, _ = patches_of_scenes(canvas, SITE, ("cat", "dog"))
    assert measure(trained, x).explained_variance > 0.5
    fires = trained.pre_activations(x)[:, 0]
    assert roc_auc(fires[cat], fires[~cat]) > 0.8


def test_training_changes_no_picture(nodes, canvas):
    before = sample(canvas, canvas[0])
    train(nodes, canvas, train_steps=10)
    assert torch.equal(sample(canvas, canvas[0]), before)


def test_the_conditional_half_is_collected(nodes, canvas, tmp_path):
    """The prompt's own words change what is stored, guidance and negative halves do not join it."""
    from concept_erasure.training import store

    train(nodes, canvas, keep_patches=True, train_steps=10)
    there = store.shards(next(iter(state(tmp_path))) / SITE)
    held = store.shards(next(iter(state(tmp_path))) / SITE / "held")
    assert sum(shard.rows for shard in there + held) == IMAGES * 4 * patches_of(canvas)


def test_the_same_seed_trains_the_same_sae(nodes, canvas):
    saes = [train(nodes, canvas, overwrite=True).args[0].load_decoder().state_dict() for _ in range(2)]
    assert all(torch.equal(value, saes[1][key]) for key, value in saes[0].items())


@pytest.mark.parametrize("moment", ["collecting", "training"])
def test_an_interrupt_keeps_what_was_trained(nodes, canvas, tmp_path, monkeypatch, moment):
    import comfy.model_management
    from concept_erasure.training.from_model.display import Display

    whole = train(nodes, canvas, name="whole").args[0].load_decoder().state_dict()
    shown = Display.__call__

    def press_cancel(self):
        steps = sum(session.step for session in self.training.sessions.values())
        if (steps == 5 and moment == "collecting") or steps == 25:
            comfy.model_management.interrupt_current_processing()
        shown(self)

    with monkeypatch.context() as patched:
        patched.setattr(Display, "__call__", press_cancel)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            train(nodes, canvas, name="part")
    assert len(state(tmp_path)) == 1
    unfinished = nodes.SAELoader.execute("part_unfinished.safetensors").args[0]
    assert unfinished.file.facts["steps"] == (5 if moment == "collecting" else 25)
    again = train(nodes, canvas, name="part").args[0].load_decoder().state_dict()
    assert not (tmp_path / "models" / "sae" / "part_unfinished.safetensors").exists() and not state(tmp_path)
    if moment == "training":
        assert all(torch.equal(value, again[key]) for key, value in whole.items())


def test_a_killed_process_loses_little(nodes, canvas, tmp_path, monkeypatch):
    """SIGKILL, which nothing can catch: the next run samples nothing again and goes on from the last checkpoint."""
    from concept_erasure.training import checkpoint, session
    from concept_erasure.training.from_model import collection

    assert max(session.SAVE_EVERY, collection.FLUSH_EVERY) < 60, "at most a minute is lost"
    command = [sys.executable, "-c", WITHOUT_END, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "dev" / "host"), str(ROOT / "tests")])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as running:
        try:
            first = wait_for_checkpoint(tmp_path, running, 0)
            step = int(checkpoint.load(first)[1]["step"])
            kept = wait_for_checkpoint(tmp_path, running, step)  # it is written again and again
        finally:
            running.kill()
    step = int(checkpoint.load(kept)[1]["step"])
    steps = []
    advance = session.Trainer.advance
    monkeypatch.setattr(session.Trainer, "advance", lambda *args: (steps.append(1), advance(*args))[1])
    monkeypatch.setattr(collection.comfy.sample, "sample", lambda *_, **__: pytest.fail("sampled again"))
    sae = train(nodes, canvas, train_steps=step + 5).args[0]
    assert sae.file.facts["steps"] == step + 5 and len(steps) == 5


def wait_for_checkpoint(folder: Path, running: subprocess.Popen, steps: int) -> Path:
    """Wait until training in another process is past some steps and a checkpoint says so; return the checkpoint."""
    from concept_erasure.training import checkpoint

    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and running.poll() is None:
        for path in (folder / "output").glob("sae_training/*/*/run.training"):
            if int(checkpoint.load(path)[1]["step"]) > steps:
                return path
        time.sleep(0.2)
    raise AssertionError(f"training in another process did not get anywhere; it ended with {running.poll()}")


def test_a_full_store_ends_collecting_not_training(nodes, canvas, monkeypatch):
    """heun looks twice a step, which the plan does not know."""
    from concept_erasure.nodes import sae_trainer

    # Less than the node lets anyone choose: a store of that size is not full after so few steps.
    whole = sae_trainer.Request
    monkeypatch.setattr(sae_trainer, "Request", lambda **fields: whole(**{**fields, "limit": 1_500_000}))
    output = train(nodes, canvas, train_steps=10, sampler_name="heun")
    assert "after 10 steps" in output.ui["text"][0]


@pytest.mark.parametrize("trained", [0, 25])
def test_a_full_disk_is_explained_and_spares_the_last_checkpoint(nodes, canvas, tmp_path, monkeypatch, trained):
    """Before the first shard, and when a checkpoint is due; once there is room the same run goes on."""
    from concept_erasure.training import session, store

    advance, spare = session.Trainer.advance, store.SPARE_BYTES

    def fill(self, *args):
        if self.step == trained:
            monkeypatch.setattr(store, "SPARE_BYTES", 10**18)
        advance(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(session, "SAVE_EVERY", 0.0)
        patched.setattr(session.Trainer, "advance", fill)
        patched.setattr(store, "SPARE_BYTES", spare if trained else 10**18)
        with pytest.raises(ValueError, match=r"SAE Trainer: .*is full.*run again with the same settings to go on"):
            train(nodes, canvas)
    monkeypatch.setattr(store, "SPARE_BYTES", spare)
    steps = []
    monkeypatch.setattr(session.Trainer, "advance", lambda *args: (steps.append(1), advance(*args))[1])
    assert train(nodes, canvas).args[0].file.facts["steps"] == 30
    assert len(steps) == 30 - trained


def test_nan_from_the_model_is_explained(nodes, canvas):
    broken = canvas[0].clone()
    block = broken.get_model_object("diffusion_model").get_submodule(SITE)
    hook = block.register_forward_hook(lambda *_: torch.full_like(_[2], torch.nan))
    try:
        with pytest.raises(ValueError, match=rf"SAE Trainer: .*{re.escape(SITE)}.* hold NaN.*'model'.*--force-fp32"):
            train(nodes, (broken, canvas[1]))
    finally:
        hook.remove()


def test_nan_in_mid_training_leaves_a_usable_file(nodes, canvas, monkeypatch):
    from concept_erasure.training import session

    advance = session.Trainer.advance

    def poison(self, embeddings, labels=None):
        advance(self, embeddings * (torch.nan if self.step == 20 else 1), labels)

    monkeypatch.setattr(session.Trainer, "advance", poison)
    with pytest.raises(ValueError, match=r"SAE Trainer: the loss is no number.*What was trained before is saved"):
        train(nodes, canvas)
    sae = nodes.SAELoader.execute("my_sae_unfinished.safetensors").args[0]
    assert sae.file.facts["steps"] == 20 and sae.load_decoder().decoder_weight.isfinite().all()


def test_guided_concepts_become_latents(nodes, canvas):
    sae = train(nodes, canvas, guided_concepts="cat, Tree", train_steps=20).args[0]
    assert sae.file.facts["guided"] == ["cat", "Tree"]
    with pytest.raises(ValueError, match=r"'unicorn'.*'guided_concepts'"):
        train(nodes, canvas, guided_concepts="unicorn", overwrite=True)


def test_batchtopk_and_prompts_from_a_file(nodes, canvas, tmp_path):
    (tmp_path / "prompts.txt").write_text("\ufeffA cat image\r\n\r\nA dog image\n", encoding="utf-8")
    sae = train(nodes, canvas, prompts_file="prompts.txt", activation="batchtopk", prompts="").args[0]
    assert sae.config.activation == "jumprelu"
    first = nodes.SAETrainer.fingerprint_inputs(prompts_file="prompts.txt")
    (tmp_path / "prompts.txt").write_text("A dog image")
    assert nodes.SAETrainer.fingerprint_inputs(prompts_file="prompts.txt", seed=3) != first
    (tmp_path / "secret.key").write_text("x")
    for name in ("../prompts.txt", "secret.key", "/etc/passwd"):
        with pytest.raises(ValueError, match=r"no text file .*'prompts_file'"):
            train(nodes, canvas, prompts_file=name)


def test_only_the_chosen_steps_are_collected(nodes, canvas, tmp_path):
    train(nodes, canvas, keep_patches=True, train_steps=10, start_percent=0.3, end_percent=0.8, steps=10)
    (folder,) = state(tmp_path)
    there = [load_file(path) for path in (folder / SITE).rglob("*.safetensors")]
    seen = torch.cat([tensors["timesteps"] for tensors in there])
    assert seen.min() > 199 and seen.max() < 701 and len(seen.unique()) == 5
    assert len(seen) == IMAGES * 5 * patches_of(canvas)


def test_the_usual_block_of_the_shipped_model_is_that_of_its_best_sae(canvas):
    from concept_erasure.training.from_model.request import chosen

    assert chosen(canvas[0], "") == {SITE: shapes(canvas[0])[SITE][0]}
    page = (ROOT / "web" / "docs" / "ConceptErasureSAETrainer.md").read_text(encoding="utf-8")
    assert f"`{SITE}` for the Canvas Checkpoint" in page


def test_zero_means_what_suits_the_model(pack):
    from concept_erasure.training.from_model.request import Request

    fields = dict.fromkeys(Request.__dataclass_fields__, 0)
    assert Request(**fields).usual(128) == (400, 2000) and Request(**fields).usual(1280) == (1000, 20_000)
    assert Request(**{**fields, "pictures": 7, "train_steps": 8}).usual(1280) == (7, 8)


def test_curves_and_time_left_are_shown_while_it_runs(nodes, canvas, monkeypatch):
    import comfy.cli_args
    import comfy.utils
    from concept_erasure.training.from_model import display

    shown, notes = [], []
    draw = display.draw
    monkeypatch.setattr(display, "DRAW_EVERY", 0.0)
    monkeypatch.setattr(comfy.cli_args.args, "preview_method", comfy.cli_args.LatentPreviewMethod.Auto)
    monkeypatch.setattr(display, "draw", lambda training, note="": (notes.append(note), draw(training, note))[1])
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *args, **_: shown.append(args))
    train(nodes, canvas, train_steps=60)
    values, pictures = [args[0] for args in shown], [args[2] for args in shown if args[2] is not None]
    assert values == sorted(values) and values[-1] == display.TICKS, "the bar reaches its end"
    assert len(pictures) > 3 and pictures[-1][1].size == (768, 300)
    assert pictures[0][1].tobytes() != pictures[-1][1].tobytes(), "the curves grow"
    assert any(re.fullmatch(r"\d+\.\d min left", note) for note in notes)


@pytest.fixture
def pictures(nodes, tmp_path):
    """A folder of 20 pictures in ComfyUI's input folder; the odd ones have a caption."""
    from concept_erasure.dev.demo_model import scenes

    folder = tmp_path / "scenes"
    folder.mkdir()
    for number in range(20):
        scene = scenes.render(scenes.VALIDATION[number])
        Image.fromarray(scene.image).resize((160, 128)).save(folder / f"{number:02d}.png")
        if number % 2:
            (folder / f"{number:02d}.txt").write_text(f"{scene.caption}\n", encoding="utf-8")
    return folder


def looked_at(nodes, canvas, tmp_path, **changed):
    """Train on the folder; return all patches that were stored, trained on and held, and their timesteps."""
    inputs = {"image_folder": "scenes", "vae": canvas[2], "train_steps": 10, "keep_patches": True}
    train(nodes, canvas, **{"images": 40, "steps": 8, **inputs, **changed})
    (folder,) = state(tmp_path)
    found = []
    for store in (folder / SITE, folder / SITE / "held"):
        tensors = [load_file(path) for path in sorted(store.glob("*.safetensors"))]
        found.append({key: torch.cat([each[key] for each in tensors]) for key in tensors[0]})
    return found


def test_a_folder_of_pictures_is_noised_and_looked_at(nodes, canvas, pictures, tmp_path):
    kept, held = looked_at(nodes, canvas, tmp_path)
    assert len(kept["embeddings"]) + len(held["embeddings"]) == 40 * 8 * patches_of(canvas), (
        "each picture twice, once a level"
    )
    assert len(held["embeddings"]) * 10 == 40 * 8 * patches_of(canvas), "one picture in ten is held, both times"
    levels = kept["timesteps"].unique()
    assert len(levels) == 8 and levels.max() > 900 and levels.min() < 150


def test_what_is_looked_at_is_the_picture_with_its_caption(nodes, canvas, pictures, tmp_path):
    """Other pixels or another caption give other patches; the same ones give the same."""
    import shutil

    def patches(name: str) -> torch.Tensor:
        kept, _ = looked_at(nodes, canvas, tmp_path, name=name, images=20, steps=3)
        shutil.rmtree(tmp_path / "output")
        return kept["embeddings"]

    first = patches("first")
    assert torch.equal(patches("second"), first)
    (pictures / "01.txt").write_text("A ship image in neon style", encoding="utf-8")
    captioned = patches("third")
    assert not torch.equal(captioned, first)
    Image.new("RGB", (64, 64), "red").save(pictures / "00.png")
    assert not torch.equal(patches("fourth"), captioned)


def test_a_changed_picture_or_caption_trains_again(nodes, pictures):
    def fingerprint() -> object:
        return nodes.SAETrainer.fingerprint_inputs(image_folder="scenes", seed=1)

    first = fingerprint()
    assert fingerprint() == first
    (pictures / "00.txt").write_text("A cat image", encoding="utf-8")
    assert fingerprint() != first


def test_captions_can_guide(nodes, canvas, pictures):
    for number in range(20):
        (pictures / f"{number:02d}.txt").write_text("A cat image" if number % 2 else "A dog image", encoding="utf-8")
    inputs = {"image_folder": "scenes", "vae": canvas[2], "guided_concepts": "cat", "train_steps": 10, "images": 40}
    assert train(nodes, canvas, **inputs, steps=8).args[0].file.facts["guided"] == ["cat"]


def test_folders_that_cannot_be_used_are_explained(nodes, canvas, pictures, tmp_path):
    for name in ("../scenes", "scenes/../scenes", "/etc", "output", "none "):
        with pytest.raises(ValueError, match=r"SAE Trainer: there is no folder .* with images .*'image_folder'"):
            train(nodes, canvas, image_folder=name, vae=canvas[2])
    with pytest.raises(ValueError, match=r"SAE Trainer: .*'image_folder'.*input 'vae'"):
        train(nodes, canvas, image_folder="scenes")
    (tmp_path / "prompts.txt").write_text("A cat image", encoding="utf-8")
    with pytest.raises(ValueError, match=r"SAE Trainer: both 'prompts_file' and 'image_folder'"):
        train(nodes, canvas, image_folder="scenes", vae=canvas[2], prompts_file="prompts.txt")
    (pictures / "03.txt").write_bytes(b"\xff\xfe\x00")
    unreadable = r"SAE Trainer: 03\.txt in folder scenes cannot be read as text.*'image_folder'"
    with pytest.raises(ValueError, match=unreadable):
        train(nodes, canvas, image_folder="scenes", vae=canvas[2])
    (pictures / "03.txt").unlink()
    (pictures / "07.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"SAE Trainer: 07\.png cannot be read as an image.*'image_folder'"):
        train(nodes, canvas, image_folder="scenes", vae=canvas[2])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"prompts": " \n"}, "no prompt.*'prompts'"),
        ({"hookpoints": "output_blocks.9.1"}, f"no block 'output_blocks.9.1'.*'hookpoints'.*{re.escape(SITE)}"),
        ({"name": "../x"}, "'../x' cannot be the name of a file"),
        ({"start_percent": 0.5, "end_percent": 0.5}, "none of the 4 steps lies between 'start_percent'"),
        ({"start_percent": 0.01, "end_percent": 0.02}, "none of the 4 steps lies between 'start_percent'"),
        ({"k": 300}, "k = 300 is not a whole number from 1 to 256"),
        ({"images": 1}, "too few patch embeddings.*raise 'images'"),
    ],
)
def test_wrong_inputs(nodes, canvas, inputs, message):
    with pytest.raises(ValueError, match=f"SAE Trainer.*{message}"):
        train(nodes, canvas, **inputs)


def test_nothing_is_overwritten_unasked(nodes, canvas, sae_folder):
    (sae_folder / "my_sae.safetensors").write_text("mine")
    with pytest.raises(ValueError, match=r"SAE Trainer: my_sae\.safetensors is there already"):
        train(nodes, canvas)


def test_other_models_are_refused(nodes, canvas):
    other = canvas[0].clone()
    other.add_object_patch("diffusion_model", torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="SAE Trainer: the model at input 'model' is a Linear"):
        train(nodes, (other, canvas[1]))
