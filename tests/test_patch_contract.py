"""The contract of the patch, on the shipped model in real ComfyUI.

Exact where it must do nothing, local and repeatable where it acts, and gone when the run is over.
"""

import pytest
import torch
from support.calls import watch
from support.demo_model import GRID, MIDDLE, MIDDLE_FILE, SITE, SMALL, shapes

STEPS = 6
WHOLE = (GRID, GRID)  # the size of a usual image, where the middle's grid would be too coarse on a small one
PROMPTS = ["A cat image in photo style", "A dog and a cat image in comic style", "A tree image in neon style"]


@pytest.fixture(scope="module")
def sae(pack, canvas):
    """The first shipped SAE."""
    from concept_erasure.nodes import files
    from concept_erasure.unet.loading import load_sae

    files.register_folder()
    name = files.names()[0]
    return load_sae(files.resolve(name), name)


@pytest.fixture(scope="module")
def coarse(sae):
    """The shipped SAE of the middle, whose grid is the coarsest."""
    from concept_erasure.nodes import files
    from concept_erasure.unet.loading import load_sae

    return load_sae(files.resolve(MIDDLE_FILE), MIDDLE_FILE)


@pytest.fixture(scope="module")
def detect(sae):
    """Make a detection of the cat that surely finds something; keywords go to Detector."""
    from concept_erasure.erasure.detection import Detector

    return lambda **options: Detector(sae, sae.concept("cat"), **{"sensitivity": 3.0, **options})


def erase(model, detection, mode="similar", blocks=None, **options):
    from concept_erasure.erasure.attach import attach
    from concept_erasure.erasure.replacement import Replacement

    return attach(model, detection, Replacement(mode, **options), blocks)


def run(canvas, model, prompts=PROMPTS[:1], seeds=(7,), **options):
    from concept_erasure.dev.demo_model.sampling import sample

    return sample(model, canvas[1], prompts, list(seeds), **{"steps": STEPS, "size": SMALL, **options})


def hooks_left(model):
    network = model.model.diffusion_model
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def watched(model, sae, detection, mode="similar", hookpoint=None, **options):
    """Attach an observer before and one after the eraser, at the SAE's block or at another."""
    from concept_erasure.unet.hooks import attach_observer

    before, after = (watch(hookpoint or sae.config.hookpoint) for _ in range(2))
    patched, record = erase(attach_observer(model, before), detection, mode, **options)
    return attach_observer(patched, after), record, before, after


def steps_of(before, after, role="positive"):
    """Yield (sigma, what a block gave, what was passed on) of the rows of a role, call by call."""
    for (_, _, was, call), (_, _, became, _) in zip(before.seen, after.seen, strict=True):
        for chunk in call.chunks:
            if chunk.role == role:
                yield float(call.sigma), was[chunk.rows], became[chunk.rows]


def entries_at(record, hookpoint, role="positive"):
    """The entries of a block and role by sigma, noisiest first."""
    found = {e.sigma: e for e in record.latest.entries.values() if (e.hookpoint, e.role) == (hookpoint, role)}
    return dict(sorted(found.items(), reverse=True))


@pytest.mark.parametrize("mode", ["random", "nearest", "similar", "none"])
def test_nothing_found_changes_nothing(canvas, detect, mode):
    model, record = erase(canvas[0], detect(sensitivity=0.0), mode)
    assert (run(canvas, canvas[0]) - run(canvas, model)).abs().max() == 0.0
    assert record.latest.replaced() == 0 and len(record.latest.sigmas()) == STEPS


def test_an_empty_range_changes_nothing(canvas, detect):
    model, record = erase(canvas[0], detect(start=0.4, end=0.4))
    assert (run(canvas, canvas[0]) - run(canvas, model)).abs().max() == 0.0
    assert record.latest.entries == {}
    assert "did not look" in record.latest.summary()


def test_detecting_only_changes_nothing_but_is_recorded(canvas, detect):
    model, record = erase(canvas[0], detect(), "none")
    assert (run(canvas, canvas[0]) - run(canvas, model)).abs().max() == 0.0
    assert record.latest.heat().max() > 0 and record.latest.replaced() == 0


@pytest.mark.parametrize("mode", ["random", "nearest", "similar"])
@pytest.mark.parametrize("apply_to", ["positive", "both"])
def test_replacement_acts_only_on_the_mask(canvas, sae, detect, mode, apply_to):
    model, record, before, after = watched(canvas[0], sae, detect(), mode, apply_to=apply_to)
    changed = run(canvas, model, PROMPTS, (1, 2, 3))
    assert not torch.equal(changed, run(canvas, canvas[0], PROMPTS, (1, 2, 3)))
    replaced = 0
    for role in ("positive", "negative"):
        entries = entries_at(record, sae.config.hookpoint, role)
        assert len(entries) == (STEPS if role == "positive" or apply_to == "both" else 0)
        for sigma, was, became in steps_of(before, after, role):
            if not entries:
                assert torch.equal(was, became)
                continue
            entry = entries[sigma]
            mask = entry.mask[:, None].expand_as(was)
            assert torch.equal(was[~mask], became[~mask]), "undetected patches keep their exact bits"
            check_sources(was, became, entry.mask)
            replaced += sum(entry.replaced)
    there = [entry for entry in record.latest.entries.values() if entry.hookpoint == sae.config.hookpoint]
    assert replaced == sum(sum(entry.replaced) for entry in there) > 0


def check_sources(was, became, mask):
    """Every replaced patch equals some undetected patch of the same image."""
    for image in range(len(was)):
        old, new = was[image].flatten(1).T, became[image].flatten(1).T
        free = old[~mask[image].flatten()]
        for patch in new[mask[image].flatten()]:
            assert (free == patch).all(1).any()


@pytest.mark.parametrize(("place", "delay"), [(-1, 0), (0, 1)], ids=["the last block", "the first block"])
def test_patches_are_replaced_at_another_block(canvas, coarse, place, delay):
    """On a finer grid; a block that runs before the SAE's takes the mask of the step before."""
    from concept_erasure.erasure.detection import Detector

    sides = {path: height for path, (_, height, _) in shapes(canvas[0]).items()}
    block = list(sides)[place]
    finer_by = sides[block] // sides[MIDDLE]
    assert finer_by > 1
    cat = Detector(coarse, coarse.concept("cat"), 1.0)
    model, record, before, after = watched(canvas[0], coarse, cat, hookpoint=block, blocks=(block,))
    run(canvas, model, PROMPTS, (1, 2, 3), size=WHOLE)
    found = [entry.mask for entry in entries_at(record, MIDDLE).values()]
    assert len(found) == STEPS and sum(mask.sum() for mask in found) > 0
    assert all(not e.looked for e in record.latest.entries.values() if e.hookpoint == block)
    for step, (_, was, became) in enumerate(steps_of(before, after)):
        mask = torch.zeros_like(found[0]) if step < delay else found[step - delay]
        finer = mask.repeat_interleave(finer_by, 1).repeat_interleave(finer_by, 2)
        assert torch.equal((was != became).any(1) & ~finer, torch.zeros_like(finer))
        check_sources(was, became, finer)
    assert record.latest.replaced() == finer_by**2 * sum(int(mask.sum()) for mask in found[: STEPS - delay])


def test_a_refined_mask_covers_the_same_share_of_a_finer_block(canvas, coarse):
    """The settings count patches of the SAE's grid, here the middle's, wherever the mask is used."""
    from concept_erasure.erasure.detection import Detector, Refine
    from concept_erasure.erasure.refinement import Refinement

    grown = Refine(Detector(coarse, coarse.concept("cat"), 1.0), Refinement(grow=1, min_patches=2))
    model, record = erase(canvas[0], grown, blocks=(MIDDLE, SITE))
    run(canvas, model, PROMPTS, (1, 2, 3), size=WHOLE)
    home, other = entries_at(record, MIDDLE), entries_at(record, SITE)
    assert home.keys() == other.keys() and any(0 < entry.mask.float().mean() < 1 for entry in home.values())
    for sigma, entry in home.items():
        assert torch.equal(other[sigma].mask, entry.mask.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_a_small_source_share_leaves_out_what_speaks_for_the_concept(canvas, sae, detect):
    from concept_erasure.erasure.scorer import ConceptScorer

    model, record, before, after = watched(canvas[0], sae, detect(), source_share=0.25)
    run(canvas, model)
    one = detect()
    scorer = ConceptScorer(sae.module, one.concept, one.sensitivity, torch.device("cpu"))
    timesteps = {sigma: torch.tensor(record.latest.timestep(sigma)) for sigma in record.latest.sigmas()}
    for sigma, was, became in steps_of(before, after):
        old, new = was[0].flatten(1).T, became[0].flatten(1).T
        found, _ = scorer(old, timesteps[sigma])
        limit = found.raw_score[~found.mask].quantile(0.3)
        for patch in new[found.mask]:
            assert found.raw_score[(old == patch).all(1)].min() <= limit
    assert record.latest.replaced() > 0


def test_random_sources_are_drawn_anew_at_each_step(canvas, sae, detect):
    """With the same mask at every step, another choice each time."""
    from concept_erasure.erasure.detection import Refine
    from concept_erasure.erasure.refinement import Refinement

    steady = Refine(detect(sensitivity=10.0), Refinement(grow=8, region=torch.eye(2)[None]))
    model, record, before, after = watched(canvas[0], sae, steady, "random", source_share=1.0)
    run(canvas, model)
    chosen = []
    for sigma, was, became in steps_of(before, after):
        old, new = was[0].flatten(1).T, became[0].flatten(1).T
        mask = entries_at(record, sae.config.hookpoint)[sigma].mask[0].flatten()
        chosen.append([int((old == patch).all(1).nonzero()[0]) for patch in new[mask]])
    full = [sources for sources in chosen if len(sources) == len(chosen[-1]) > 8]
    assert len(full) > 2 and len({tuple(sources) for sources in full}) == len(full)


@pytest.mark.parametrize("mode", ["random", "similar"])
def test_a_batch_equals_its_single_runs(canvas, detect, mode):
    model, record = erase(canvas[0], detect(), mode)
    together = run(canvas, model, PROMPTS, (1, 2, 3))
    masks = record.latest.heat()
    for i, (prompt, seed) in enumerate(zip(PROMPTS, (1, 2, 3), strict=True)):
        alone = run(canvas, model, [prompt], (seed,))
        assert torch.equal(record.latest.heat()[0], masks[i])
        assert (alone[0] - together[i]).abs().max() < 1e-3


def test_the_same_run_twice_is_the_same_and_the_record_begins_anew(canvas, detect):
    model, record = erase(canvas[0], detect())
    first = run(canvas, model)
    run_one, entries = record.latest, len(record.latest.entries)
    second = run(canvas, model)
    assert torch.equal(first, second)
    assert (run_one.number, record.latest.number) == (1, 2) and len(record.latest.entries) == entries


def test_the_source_seed_matters(canvas, detect):
    pictures = [run(canvas, erase(canvas[0], detect(), "random", seed=seed)[0]) for seed in (0, 0, 1)]
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])


@pytest.mark.parametrize("filled", [0.0, 0.5, 1.0])
def test_region_masks(canvas, sae, detect, filled):
    """No region at all, half of the picture, and all of it."""
    from concept_erasure.erasure.detection import Refine
    from concept_erasure.erasure.refinement import Refinement

    region = torch.zeros(1, 64, 64)
    region[:, :, : int(64 * filled)] = 1
    found = Refine(detect(), Refinement(grow=2))
    model, record = erase(canvas[0], Refine(found, Refinement(region=region)))
    result = run(canvas, model)
    heat = record.latest.heat()[0]
    if filled == 0.0:
        assert torch.equal(result, run(canvas, canvas[0])) and heat.max() == 0
    elif filled == 0.5:
        assert heat[:, heat.shape[1] // 2 :].max() == 0 and heat.max() > 0
    else:
        assert torch.equal(result, run(canvas, erase(canvas[0], found)[0]))


def test_too_small_a_share_leaves_the_picture_exactly(canvas, detect):
    from concept_erasure.erasure.detection import Refine
    from concept_erasure.erasure.refinement import Refinement

    pictures = []
    for share in (0.001, 1.0):
        model, record = erase(canvas[0], Refine(detect(), Refinement(min_area=share)))
        pictures.append(run(canvas, model))
        assert (record.latest.replaced() > 0) == (share < 1)
    assert torch.equal(pictures[0], run(canvas, erase(canvas[0], detect())[0]))
    assert torch.equal(pictures[1], run(canvas, canvas[0]))


def test_all_detected_leaves_the_picture_and_says_so(canvas, detect):
    from concept_erasure.erasure.detection import Refine
    from concept_erasure.erasure.refinement import Refinement

    everywhere = Refine(detect(sensitivity=10.0), Refinement(grow=8, persistence=1))
    model, record = erase(canvas[0], everywhere)
    result = run(canvas, model)
    full = [entry for entry in record.latest.entries.values() if entry.mask.all()]
    assert full and all(sum(entry.replaced) == 0 for entry in full)
    assert any("no source patch" in note for note in record.latest.notes)
    assert len(full) == len(record.latest.entries), "the test needs every step full to say more"
    assert torch.equal(result, run(canvas, canvas[0]))


def test_two_replacers_on_one_model(canvas, sae, detect):
    from concept_erasure.erasure.detection import Detector

    first, record_one = erase(canvas[0], detect())
    second, record_two = erase(first, Detector(sae, sae.concept("dog"), 3.0))
    both = run(canvas, second, PROMPTS[1:2])
    assert record_one.latest.replaced() > 0 and record_two.latest.replaced() > 0
    assert not torch.equal(both, run(canvas, first, PROMPTS[1:2]))
    neutral, _ = erase(first, detect(sensitivity=0.0))
    assert torch.equal(run(canvas, neutral, PROMPTS[1:2]), run(canvas, first, PROMPTS[1:2]))


@pytest.mark.parametrize("replacer_first", [True, False])
def test_other_patches_on_the_same_model(canvas, detect, replacer_first):
    """A LoRA-like weight patch and an attention patch, before or after the replacer, act as they do without it."""

    def with_patches(model):
        model = model.clone()
        weight = model.model.diffusion_model.get_submodule(MIDDLE).proj_out.weight
        key = f"diffusion_model.{MIDDLE}.proj_out.weight"
        assert model.add_patches({key: (torch.full(weight.shape, 0.01),)}, 1.0) == [key]
        model.set_model_attn1_output_patch(lambda out, options: out * 1.1)
        return model

    def chained(detection):
        if replacer_first:
            erased, record = erase(canvas[0], detection)
            return with_patches(erased), record
        return erase(with_patches(canvas[0]), detection)

    patched = run(canvas, with_patches(canvas[0]))
    assert not torch.equal(patched, run(canvas, canvas[0]))
    neutral, _ = chained(detect(sensitivity=0.0))
    assert torch.equal(run(canvas, neutral), patched)
    erased, record = chained(detect())
    assert not torch.equal(run(canvas, erased), patched) and record.latest.replaced() > 0


def test_two_blocks_work_together(canvas, sae, coarse):
    """Two shipped SAEs joined: both blocks detect and both are edited."""
    from concept_erasure.erasure.detection import Detector, Join

    leaves = [Detector(one, one.concept("cat"), 3.0) for one in (sae, coarse)]
    model, record = erase(canvas[0], Join("union", *leaves))
    run(canvas, model)
    replaced = {hookpoint: 0 for hookpoint, _, _ in record.latest.entries}
    for (hookpoint, _, _), entry in record.latest.entries.items():
        replaced[hookpoint] += sum(entry.replaced)
    assert len(replaced) == 2 and all(replaced.values())


@pytest.mark.parametrize(
    "options",
    [
        {"cfg": 1.0},
        {"sampler": "heun"},
        {"sampler": "dpmpp_2m_sde"},
        {"sampler": "dpmpp_sde"},
        {"sampler": "uni_pc"},
        {"sampler": "lcm", "scheduler": "sgm_uniform"},
    ],
    ids=str,
)
def test_samplers(canvas, detect, options):
    model, record = erase(canvas[0], detect())
    result = run(canvas, model, **options)
    assert torch.isfinite(result).all() and record.latest.replaced() > 0
    neutral, _ = erase(canvas[0], detect(sensitivity=0.0))
    assert torch.equal(run(canvas, neutral, **options), run(canvas, canvas[0], **options))


def test_halves_in_separate_calls_give_the_same_picture(canvas, detect, monkeypatch):
    """Low memory makes ComfyUI run the halves one after the other."""
    model, record = erase(canvas[0], detect())
    together, heat = run(canvas, model), record.latest.heat()
    monkeypatch.setattr(model.model, "memory_required", lambda *_args, **_options: 1e18)
    apart = run(canvas, model)
    assert torch.equal(heat, record.latest.heat())
    assert (together - apart).abs().max() < 1e-3


def test_interrupt_and_error_leave_no_hook(canvas, sae, detect):
    import comfy.model_management

    model, _ = erase(canvas[0], detect())
    clean = run(canvas, model)

    def fail(error):
        failing = watch(sae.config.hookpoint)
        keep = failing.on_block

        def on_block(*what):
            if len(failing.seen) == 2:
                raise error
            return keep(*what)

        failing.on_block = on_block
        return failing

    from concept_erasure.unet.hooks import attach_observer

    for error in (RuntimeError("stop"), comfy.model_management.InterruptProcessingException()):
        with pytest.raises(type(error)):
            run(canvas, attach_observer(model, fail(error)))
        assert hooks_left(model) == 0
        assert torch.equal(run(canvas, model), clean)
    assert hooks_left(model) == 0


def test_clones_share_the_weights(canvas, sae, detect):
    model, _ = erase(canvas[0], detect())
    clone = model.clone()
    found = [m.model for models in clone.additional_models.values() for m in models]
    assert found == [sae.module]


def test_nan_stops_the_run_with_a_reason(canvas, sae, detect):
    from concept_erasure.unet.calls import NonFiniteActivations
    from concept_erasure.unet.hooks import attach_observer

    broken = watch(sae.config.hookpoint)
    broken.on_block = lambda hookpoint, x, output, call: output * torch.nan
    model, _ = erase(attach_observer(canvas[0], broken), detect())
    with pytest.raises(NonFiniteActivations, match="Patch Replacer: the activations of"):
        run(canvas, model)
    assert hooks_left(model) == 0


def test_newer_comfyui_is_told_that_memory_outlives_a_block(canvas, detect, monkeypatch):
    """From 0.34 on it records the memory of each block, and what is kept longer must be taken outside of that."""
    import sys
    from contextlib import contextmanager
    from types import SimpleNamespace

    paused, within = [], []

    @contextmanager
    def pause_malloc_graph():
        paused.append(True)
        yield
        paused.pop()

    from concept_erasure.erasure.eraser import Eraser

    plain = Eraser.on_block
    monkeypatch.setattr(Eraser, "on_block", lambda *call: (within.append(bool(paused)), plain(*call))[1])
    model, _ = erase(canvas[0], detect())
    before = run(canvas, model)
    assert within and not any(within), "this ComfyUI has none"
    within.clear()
    prefetch = SimpleNamespace(pause_malloc_graph=pause_malloc_graph)
    monkeypatch.setitem(sys.modules, "comfy.model_prefetch", prefetch)
    monkeypatch.setattr(sys.modules["comfy"], "model_prefetch", prefetch, raising=False)
    assert torch.equal(run(canvas, model), before) and within and all(within) and not paused


def test_torch_compile(canvas, detect):
    """ComfyUI compiles the UNet behind an APPLY_MODEL wrapper; the hook must stay outside the graph."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model, record = erase(canvas[0], detect())
    eager = run(canvas, model, steps=2)
    set_torch_compile_wrapper(model=model, backend="eager")
    compiled = run(canvas, model, steps=2)
    assert record.latest.replaced() > 0
    assert (eager - compiled).abs().max() < 1e-3
