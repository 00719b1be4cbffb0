"""Every row of every call: the right rows are edited, or the run says that it could not tell."""

import importlib
from inspect import signature
from types import SimpleNamespace

import pytest
import torch
from support.arrangements import GUIDERS, PROMPTS, WRAPPERS, encode, guider_of, other_prompt, walks_the_blocks, wrapped
from support.calls import watch
from support.demo_model import MIDDLE, SAE_FILE, SITE, SMALL, latents

STEPS = 3


@pytest.fixture(scope="module")
def sae(pack):
    from concept_erasure.nodes import files
    from concept_erasure.unet.loading import load_sae

    files.register_folder()
    return load_sae(files.resolve(SAE_FILE), SAE_FILE)


@pytest.fixture(scope="module")
def prompts(canvas):
    return {name: encode(canvas[1], text) for name, text in PROMPTS.items()}


class Rows:
    """What each row of each call truly is, by its text embedding: a prompt's name."""

    def __init__(self, prompts):
        self.prompts, self.calls = prompts, []

    def put(self, model):
        from comfy.patcher_extension import WrappersMP

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "sae_concept_erasure test", self._see)
        return model

    def _see(self, executor, *args, **kwargs):
        context = kwargs.get("context", args[2] if len(args) > 2 else None)
        names = {name: prompt[0][0] for name, prompt in self.prompts.items()}
        self.calls.append(
            [next((n for n, e in names.items() if torch.equal(row[None], e.to(row))), "unknown") for row in context]
        )
        return executor(*args, **kwargs)


def sample(guider, batch=1, wide=1):
    """Sample latents with a guider, so many times as wide as high."""
    import comfy.samplers

    sampling = guider.model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", STEPS)
    noise = torch.randn(latents(batch, (SMALL[0], wide * SMALL[1])).shape, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        return guider.sample(
            noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=5
        )


def erased(canvas, sae, prompts, put=lambda model: model, sensitivity=10.0, mode="random"):
    """A model with the pack on it and observers around: (model, record, rows, before, after)."""
    from concept_erasure.erasure.attach import attach
    from concept_erasure.erasure.detection import Detector
    from concept_erasure.erasure.replacement import Replacement
    from concept_erasure.unet.hooks import attach_observer

    rows = Rows(prompts)
    before, after = watch(MIDDLE, SITE), watch(MIDDLE, SITE)
    model = attach_observer(rows.put(put(canvas[0])), before)
    model, record = attach(model, Detector(sae, sae.concept("cat"), sensitivity), Replacement(mode))
    return attach_observer(model, after), record, rows, before, after


def changes(rows, before, after, hookpoint):
    """(prompt, was, became) of every row of every call at a block."""
    for (block, _, was, call), (_, _, became, _) in zip(before.seen, after.seen, strict=True):
        if block == hookpoint:
            for row, name in enumerate(rows.calls[call.number - 1]):
                yield name, was[row], became[row]


def detected(sae, read, record):
    """Whether a row [C, H, W] holds the cat at some timestep band, but not in all of its patches."""
    from concept_erasure.erasure.scorer import ConceptScorer

    scorer = ConceptScorer(sae.module, sae.concept("cat"), 10.0, read.device)
    shares = [
        float(scorer(read.flatten(1).T, torch.tensor(record.timestep(sigma)))[0].mask.float().mean())
        for sigma in record.sigmas()
    ]
    return min(shares) > 0 and max(shares) < 1


def check_rows(sae, record, rows, before, after):
    """Positive rows that hold the concept were edited, and no other row was."""
    edited = 0
    for name, was, became in changes(rows, before, after, SITE):
        if name == "nothing":
            assert torch.equal(was, became), "a negative row was edited"
        elif detected(sae, was, record):
            assert not torch.equal(was, became), f"a row of '{name}' that holds the concept was left alone"
            edited += 1
    for name, was, became in changes(rows, before, after, MIDDLE):
        assert name != "nothing" or torch.equal(was, became), "a negative row was edited in the middle"
    assert edited > 0


@pytest.mark.parametrize("name", GUIDERS)
@pytest.mark.parametrize("batch", [1, 2])
def test_every_order_of_prompts(canvas, sae, prompts, name, batch):
    model, record, rows, before, after = erased(canvas, sae, prompts)
    plain = sample(GUIDERS[name](canvas[0], prompts), batch)
    assert not torch.equal(sample(GUIDERS[name](model, prompts), batch), plain)
    check_rows(sae, record.latest, rows, before, after)
    assert not record.latest.notes and len(record.latest.sigmas()) == STEPS
    neutral, *_ = erased(canvas, sae, prompts, sensitivity=0.0)
    assert torch.equal(sample(GUIDERS[name](neutral, prompts), batch), plain)


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("batch", [1, 4])
def test_every_arrangement_of_rows(canvas, sae, prompts, name, batch):
    """Images are twice as wide as high, so that a tile is as large as an image of the other tests."""
    put, certain = WRAPPERS[name]
    make = GUIDERS["KSampler"]
    model, record, rows, before, after = erased(canvas, sae, prompts, put)
    sample(make(model, prompts), batch, 2)
    check_rows(sae, record.latest, rows, before, after)
    alone = batch == 1 and name in ("windows that do not announce themselves",)
    middle = [not torch.equal(was, became) for _, was, became in changes(rows, before, after, MIDDLE)]
    if certain or alone:
        assert not record.latest.notes and any(middle)
    else:
        assert any("which image or tile" in note for note in record.latest.notes), record.latest.notes
        assert not any(middle), "the middle took a mask that may be another image's or tile's"
    neutral, *_ = erased(canvas, sae, prompts, put, sensitivity=0.0)
    assert torch.equal(sample(make(neutral, prompts), batch, 2), sample(make(put(canvas[0]), prompts), batch, 2))


def test_what_is_not_certain_is_forgotten_when_its_call_ends(canvas, sae, prompts, monkeypatch):
    from concept_erasure.erasure.eraser import Eraser

    kept, end = [], Eraser.end_call

    def watched_end(eraser, call):
        end(eraser, call)
        kept.append(len(eraser._state.masks._latest))

    monkeypatch.setattr(Eraser, "end_call", watched_end)
    for name, most in (("tile after tile", 0), ("passed on", 1)):
        kept.clear()
        model, *_ = erased(canvas, sae, prompts, WRAPPERS[name][0])
        sample(GUIDERS["KSampler"](model, prompts), 1, 2)
        assert len(kept) >= STEPS and max(kept) == most


# Too little to change a bit of what is sampled.
NOTHING = 1e-30
# Nodes that ask the model once more in a step, after the guider: module, class, and what they are set to.
ASKING_AGAIN = {
    "perturbed attention": ("nodes_pag", "PerturbedAttentionGuidance", {"scale": NOTHING}),
    "self-attention": ("nodes_sag", "SelfAttentionGuidance", {"scale": NOTHING, "blur_sigma": 2.0}),
    "skipped layers": (
        "nodes_slg",
        "SkipLayerGuidanceDiT",
        {"scale": NOTHING, "start_percent": 0.0, "end_percent": 1.0, "single_layers": "1", "double_layers": "1"},
    ),
}


def asking_again(name):
    """Put one of `ASKING_AGAIN` on a model."""
    module, kind, inputs = ASKING_AGAIN[name]

    def put(model):
        found = getattr(importlib.import_module(f"comfy_extras.{module}"), kind)
        return found.execute(model, **inputs)[0]

    return put


def with_or_without(model, name, asks):
    """Put one of `ASKING_AGAIN` on a model, and let it ask or not."""
    model = asking_again(name)(model)
    if not asks:
        model.model_options["sampler_post_cfg_function"] = []
    return model


def told(record):
    """All that a record says of each block, role and noise level."""
    return {
        (block, entry.role, sigma): [
            entry.mask, entry.before.squares, entry.before.values, entry.after.squares, torch.tensor(entry.replaced)
        ]
        for (block, _, sigma), entry in record.entries.items()
    }  # fmt: skip


@pytest.mark.parametrize("name", ASKING_AGAIN)
def test_what_is_known_comes_from_the_call_of_the_prediction(canvas, sae, prompts, monkeypatch, name):
    """Such a node at no strength leaves every latent as it is, so all that was seen must be as without its calls."""
    from concept_erasure.erasure import eraser
    from concept_erasure.erasure.attach import attach
    from concept_erasure.erasure.detection import Detector
    from concept_erasure.erasure.replacement import Replacement
    from concept_erasure.unet.capture import Capture
    from concept_erasure.unet.hooks import attach_observer

    def look(asks):
        seen, shown, capture, every = [], [], Capture([SITE]), watch(SITE)
        monkeypatch.setattr(eraser, "remains", lambda found: seen.append(found) or torch.zeros(2, dtype=torch.bool))
        base = with_or_without(canvas[0], name, asks)
        model, record = attach(
            attach_observer(attach_observer(base, capture), every),
            Detector(sae, sae.concept("cat"), 10.0),
            Replacement("none", apply_to="both"),
            show=lambda _step, _steps, _latents, mask: shown.append(mask),
        )
        latents = sample(GUIDERS["KSampler"](model, prompts), 2)
        return latents, record.latest, seen[0], shown, capture.collected, len(every.seen)

    latents, record, seen, shown, captured, calls = look(False)
    same, again, seen_again, shown_again, captured_again, more = look(True)
    assert torch.equal(same, latents) and calls == STEPS and more == 2 * STEPS
    before, after = told(record), told(again)
    assert before.keys() == after.keys() and len(before) == len(again.entries)
    for key, values in before.items():
        assert all(map(torch.equal, values, after[key])), key
    assert torch.equal(record.heat(), again.heat()) and torch.equal(record.concepts["cat"], again.concepts["cat"])
    assert bool(seen.mask.any()) and torch.equal(seen.mask, seen_again.mask)
    assert torch.equal(seen.score, seen_again.score) and torch.equal(seen.timesteps, seen_again.timesteps)
    assert all(map(torch.equal, shown, shown_again)) and len(shown) == len(shown_again)
    assert len(captured) == len(captured_again) == STEPS
    for one, other in zip(captured, captured_again, strict=True):
        assert torch.equal(one.embeddings, other.embeddings)


def test_steering_records_the_call_of_the_prediction(canvas, sae, prompts):
    from concept_erasure.steering.attach import steer
    from concept_erasure.steering.steerer import SteeredConcept
    from concept_erasure.steering.steering import Steering

    records = []
    for asks in (False, True):
        base = with_or_without(canvas[0], "perturbed attention", asks)
        model, record = steer(base, SteeredConcept(sae, sae.concept("cat")), Steering())
        sample(GUIDERS["KSampler"](model, prompts))
        records.append(record.latest)
    before, after = map(told, records)
    assert before.keys() == after.keys() and len(records[1].entries) == len(before) == 2 * STEPS
    for key, values in before.items():
        assert all(map(torch.equal, values, after[key])), key


def test_what_is_asked_again_is_edited_too(canvas, sae, prompts):
    """Or guidance would push towards what the prediction had lost."""
    model, record, rows, before, after = erased(canvas, sae, prompts, asking_again("perturbed attention"))
    sample(GUIDERS["KSampler"](model, prompts), 2)
    assert len(rows.calls) == 2 * STEPS
    check_rows(sae, record.latest, rows, before, after)
    assert not record.latest.notes and len(record.latest.entries) == 2 * STEPS - 1


def test_parts_that_a_window_over_the_width_asks_for_are_not_the_whole_image(canvas, sae, prompts):
    import comfy_extras.nodes_context_windows as nodes

    size = 16

    def put(model):
        inputs = {"context_schedule": "standard_static", "context_stride": 1, "closed_loop": False}
        if "freenoise" in signature(nodes.ContextWindowsManualNode.execute).parameters:
            inputs["freenoise"] = False  # newer than 0.3.75
        return nodes.ContextWindowsManualNode.execute(
            model, context_length=size // 2, context_overlap=0, fuse_method="pyramid", dim=3, **inputs
        )[0]

    model, record, rows, before, after = erased(canvas, sae, prompts, put)
    sample(GUIDERS["KSampler"](model, prompts), 1, size)
    check_rows(sae, record.latest, rows, before, after)
    chunks = [chunk for *_, call in before.seen for chunk in call.chunks]
    assert chunks and not any(chunk.whole or chunk.is_placed or chunk.again for chunk in chunks)
    assert not record.latest.heat().any() and record.latest.replaced() > 0


def test_rows_of_a_prompt_that_the_guider_does_not_have_are_left_alone(canvas, sae, prompts, caplog):
    put, make = wrapped(other_prompt), GUIDERS["negative, positive"]
    model, record, *_ = erased(canvas, sae, prompts, put)
    assert torch.equal(sample(make(model, prompts)), sample(make(put(canvas[0]), prompts)))
    assert any("could not be told which prompt" in note for note in record.latest.notes)
    assert "could not be told which prompt" in caplog.text and "could not be told" in record.latest.summary()


def test_the_same_prompt_in_both_roles_behind_a_wrapper_is_left_alone(canvas, sae, prompts):
    """Its rows look alike, and which of them is the positive one cannot be known."""
    put = WRAPPERS["passed on"][0]
    model, record, *_ = erased(canvas, sae, prompts, put)

    def guider(model):
        return guider_of(
            model, {"positive": prompts["cat"], "negative": prompts["cat"]}, ["positive", "negative"], [2.0, -1.0]
        )

    assert torch.equal(sample(guider(model)), sample(guider(put(canvas[0]))))
    assert any("could not be told which prompt" in note for note in record.latest.notes)
    straight, record, *_ = erased(canvas, sae, prompts)
    assert not torch.equal(sample(guider(straight)), sample(guider(canvas[0]))) and not record.latest.notes


def test_a_node_that_runs_the_blocks_itself_is_named(canvas, sae, prompts, caplog):
    put, make = wrapped(walks_the_blocks), GUIDERS["negative, positive"]
    model, record, *_ = erased(canvas, sae, prompts, put)
    assert torch.equal(sample(make(model, prompts)), sample(make(put(canvas[0]), prompts)))
    assert any("None of the model's blocks ran" in note for note in record.latest.notes)
    assert "None of the model's blocks ran" in caplog.text


@pytest.mark.parametrize("cache", ["EasyCacheNode", "LazyCacheNode"])
def test_steps_that_a_cache_leaves_out_are_no_fault(canvas, sae, prompts, cache):
    import comfy_extras.nodes_easycache as nodes

    def put(model):
        return getattr(nodes, cache).execute(model, 0.2, 0.15, 0.95, False)[0]

    make = GUIDERS["negative, positive"]
    model, record, rows, before, after = erased(canvas, sae, prompts, put)
    sample(make(model, prompts))
    check_rows(sae, record.latest, rows, before, after)
    assert not any("None of" in note or "prompt" in note for note in record.latest.notes)


def test_a_wrapper_costs_nothing_where_there_is_none(canvas, sae, prompts, monkeypatch):
    """Text embeddings are compared only behind another node's wrapper: it waits for the device."""
    from concept_erasure.unet import attribution

    def refuse(*_):
        raise AssertionError("compared without need")

    monkeypatch.setattr(attribution, "_matches", refuse)
    for name in ("negative, positive", "DualCFG, cat second"):
        model, *_ = erased(canvas, sae, prompts)
        sample(GUIDERS[name](model, prompts))


@pytest.mark.parametrize(
    ("window", "images"),
    [
        ({"index_list": [0, 1, 2]}, (0, 1, 2)),  # as before 0.20
        ({"index_list": [2, 3, 4], "dim": 0, "causal_anchor_index": 1}, (1, 2, 3, 4)),
        ({"index_list": [0, 1, 2], "dim": 0, "causal_anchor_index": None}, (0, 1, 2)),
        ({"index_list": [0, 1, 2], "dim": 2}, None),
    ],
)
def test_the_images_of_a_context_window(pack, window, images):
    from concept_erasure.unet.host import images_of_window

    assert images_of_window(SimpleNamespace(**window)) == images
