"""A record belongs to the images that its run made: in lists, copies and caches too."""

import pytest
import torch
from live_server import LiveServer
from support import graphs
from support.calls import call_of, run_of
from support.demo_model import SMALL

TWO = ("A cat image in photo style", "A cat image in comic style")


@pytest.fixture(scope="module")
def erased(pack, canvas):
    """The shipped model with a Patch Replacer on it, and its record."""
    from concept_erasure.erasure.attach import attach
    from concept_erasure.erasure.detection import Detector
    from concept_erasure.erasure.replacement import Replacement
    from concept_erasure.nodes import files
    from concept_erasure.unet.loading import load_sae

    files.register_folder()
    sae = load_sae(files.resolve(graphs.SAE_FILE), graphs.SAE_FILE)
    return attach(canvas[0], Detector(sae, sae.concept("cat"), 2.0), Replacement())


def sample(canvas, model, seeds, prompts=TWO):
    from concept_erasure.dev.demo_model.sampling import sample

    return sample(model, canvas[1], list(prompts), list(seeds), steps=4, size=SMALL)


def test_latents_find_the_run_that_made_them(canvas, erased):
    model, record = erased
    first, second = sample(canvas, model, (1, 2)), sample(canvas, model, (3, 4))
    older, newer = record.runs[-2:]
    assert record.made(first).number == older.number and record.made(second).number == newer.number
    assert torch.equal(record.made(first).heat(), older.heat())
    assert record.made(first + 1e-6) is None, "a latent that was changed is nobody's"
    assert record.made(torch.cat([first, second])) is None, "no run made all four"


def test_a_part_of_a_batch_shows_its_own_images(canvas, erased):
    model, record = erased
    made = sample(canvas, model, (1, 2))
    whole = record.latest
    for order in ([1], [1, 0], [0, 0]):
        part = record.made(made[order])
        assert part.images == len(order) and torch.equal(part.heat(), whole.heat()[order])
        assert [part.edited_shares(new) for new in range(len(order))] == [whole.edited_shares(old) for old in order]
    assert part.replaced() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_latents_in_half_precision_are_recognized(canvas, erased, dtype):
    model, record = erased
    made = sample(canvas, model, (5, 6))
    assert record.made(made.to(dtype)).number == record.latest.number


def test_the_unedited_run_of_the_same_noise_is_found(canvas, erased):
    model, record = erased
    sample(canvas, model, (7, 8))
    wanted = record.latest
    sample(canvas, model, (9, 10))
    found = record.sampled_from(wanted.image_keys[1:])
    assert found.number == wanted.number and found.images == 1
    assert record.sampled_from((12345,)) is None


def test_old_runs_are_dropped_by_number_and_size(pack, monkeypatch):
    from concept_erasure.erasure import history as module
    from concept_erasure.erasure.statistics import statistics_of

    record = module.ErasureRecord()
    monkeypatch.setattr(module, "MOST_RUNS", 3)
    for number in range(6):
        recorder = record.begin(run_of())
        mask = torch.zeros(1, 4, 4, dtype=torch.bool)
        call = call_of(run_of(), roles=("positive",))
        recorder.add("a", call, call.chunks[0], mask, statistics_of(torch.zeros(1, 8, 4, 4)))
        assert recorder.finish(torch.full((1, 4, 8, 8), float(number))) is None
    assert [run.number for run in record.runs] == [4, 5, 6]
    monkeypatch.setattr(module, "MOST_BYTES", record.latest.size())
    record.begin(run_of())
    assert [run.number for run in record.runs] == [6, 7]


def test_a_repeated_call_overwrites_its_entry_and_inactive_steps_leave_none(pack):
    from concept_erasure.erasure.history import ErasureRecord
    from concept_erasure.erasure.statistics import statistics_of

    run = run_of(images=2)
    record = ErasureRecord()
    recorder = record.begin(run)
    before = statistics_of(torch.ones(2, 8, 2, 2))
    for sigma, found, active in ((5.0, 0, None), (5.0, 1, None), (3.0, 1, torch.tensor(False))):
        call = call_of(run, sigma, roles=("positive",))
        mask = torch.full((2, 2, 2), bool(found))
        recorder.add("a", call, call.chunks[0], mask, before, stuck=mask.flatten(1).all(1), active=active)
    recorder.check("a", torch.tensor(300.0), torch.tensor(True))
    recorder.check("b", torch.tensor(200.0), torch.tensor(False))
    assert recorder.finish(None, "all detected") == ("b", 200.0)
    assert record.latest.sigmas() == [5.0] and record.latest.heat().min() == 1
    assert record.latest.notes["all detected"] == 2 and "all detected (2 times)" in record.latest.summary()


def two_samplers(rest: str = "may change") -> dict[str, graphs.Node]:
    """Two Patch Replacers with the same inputs, each with a sampler of another seed."""
    prompt = {**graphs.base(), "7": graphs.empty()}
    for name, seed in (("1", 11), ("2", 22)):
        prompt["r" + name] = graphs.replacer(rest=rest)
        prompt["s" + name] = graphs.sampler("r" + name, ["7", 0], seed)
        prompt["d" + name] = graphs.decode(["s" + name, 0])
        prompt["p" + name] = graphs.preview(["r" + name, 1], ["d" + name, 0], ["s" + name, 0])
    return prompt


def assert_two_runs(server: LiveServer, prompt: dict[str, graphs.Node]) -> None:
    entry = server.wait(server.submit(prompt))
    for name, seed in (("p1", "seed 11"), ("p2", "seed 22")):
        said = graphs.text_of(entry, name)
        assert seed in said and "No run kept" not in said, said


@pytest.mark.parametrize("rest", ["keep exactly", "may change"])
def test_two_identical_replacers_with_two_samplers(server: LiveServer, rest: str):
    """ComfyUI lets nodes with the same inputs share one output, so both runs are in one record."""
    assert_two_runs(server, two_samplers(rest))


@pytest.mark.parametrize("flags", [("--cache-lru", "4"), ("--cache-none",)], ids=str)
def test_however_comfyui_caches(flags):
    with LiveServer(*flags) as server:
        assert_two_runs(server, two_samplers())
        assert_two_runs(server, two_samplers())


def test_a_cached_sampler_shows_its_own_run_when_the_preview_runs_again(server: LiveServer):
    prompt = two_samplers()
    assert_two_runs(server, prompt)
    prompt["p1"]["inputs"]["tiles"] = 3
    entry = server.wait(server.submit(prompt))
    assert "seed 11" in graphs.text_of(entry, "p1"), "the later run, of seed 22, is not shown"


def test_a_latent_of_another_model_is_told(server: LiveServer):
    prompt = two_samplers()
    prompt["plain"] = graphs.sampler("1", ["7", 0], 33)
    prompt["p1"]["inputs"]["latent"] = ["plain", 0]
    entry = server.wait(server.submit(prompt))
    assert "No run kept in this record made that latent" in graphs.text_of(entry, "p1")


@pytest.mark.parametrize("rest", ["keep exactly", "may change"])
def test_lists_of_latents_show_each_its_own_run(server: LiveServer, rest: str):
    """Rebatch Latents makes the sampler run once for each part of the batch."""

    def masks(parts: int) -> list[bytes]:
        prompt = {**graphs.base(), "4": graphs.replacer(rest=rest), "7": graphs.empty(4)}
        prompt["l"] = graphs.node("RebatchLatents", latents=["7", 0], batch_size=4 // parts)
        prompt["s"] = graphs.sampler("4", ["l", 0], 44)
        prompt["d"] = graphs.decode(["s", 0])
        prompt["p"] = graphs.preview(["4", 1], ["d", 0], ["s", 0])
        entry = server.wait(server.submit(prompt))
        assert "No run kept" not in graphs.text_of(entry, "p")
        return server.images(entry)["p"]

    whole, halves = masks(1), masks(2)
    assert len(whole) == len(halves) == 4 and len(set(whole)) == 4
    # Batches of another size may round otherwise, which can show in a pixel but not in which image it is.
    from support.workflows import to_tensor

    def distance(one: bytes, other: bytes) -> float:
        """Of the images, without what may be written below them."""
        first, second = to_tensor(one), to_tensor(other)
        rows = min(first.shape[1], second.shape[1])
        return float((first[:, :rows] - second[:, :rows]).abs().mean())

    for index, image in enumerate(halves):
        distances = [distance(image, other) for other in whole]
        assert min(range(4), key=distances.__getitem__) == index
