"""The pack beside what else artists put on a model: neutral it changes no bit, and otherwise it acts.

docs/compatibility.md says in words what is checked here.
"""

import os

import pytest
import torch
from support.compatibility import CASES, PATCHES, Setup, Workbench
from support.demo_model import MIDDLE_FILE, SAE_FILE, SITE, shapes


@pytest.fixture(scope="module")
def bench(canvas, tmp_path_factory):
    import folder_paths

    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("loras", "controlnet"):
            patch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], {".safetensors"}))
        yield Workbench(canvas, folder)


@pytest.fixture(scope="module")
def sae(pack):
    from concept_erasure.nodes import files
    from concept_erasure.unet.loading import load_sae

    files.register_folder()
    return load_sae(files.resolve(SAE_FILE), SAE_FILE)


def detection(sae, sensitivity=3.0):
    """Sensitivity 0 is neutral, 3 surely finds something."""
    from concept_erasure.erasure.detection import Detector

    return Detector(sae, sae.concept("cat"), sensitivity)


def put(model, detection, mode="similar"):
    """Put the pack on a model: (model, record)."""
    from concept_erasure.erasure.attach import attach
    from concept_erasure.erasure.replacement import Replacement

    return attach(model, detection, Replacement(mode))


@pytest.fixture(scope="module")
def erase(sae):
    """Put the pack on a model with a sensitivity."""
    return lambda model, sensitivity: put(model, detection(sae, sensitivity))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_neutral_is_exact_and_otherwise_it_acts(bench, erase, case):
    alone = case(bench, bench.model)
    plain = bench.sample(Setup(bench.model, bench.positive, bench.negative, batch=alone.batch))
    bare = bench.sample(alone)
    assert torch.isfinite(bare).all()
    assert alone.batch > 1 or not torch.equal(bare, plain), "the case itself does nothing"
    neutral, record = erase(bench.model, 0.0)
    assert torch.equal(bench.sample(case(bench, neutral)), bare)
    assert record.latest.entries and record.latest.replaced() == 0
    erased, record = erase(bench.model, 3.0)
    changed = bench.sample(case(bench, erased))
    assert record.latest.replaced() > 0 and torch.isfinite(changed).all() and not torch.equal(changed, bare)
    assert len(record.latest.sigmas()) == alone.steps
    assert torch.equal(bench.sample(case(bench, bench.model)), bare), "nothing is left on the model"


@pytest.mark.parametrize("name", PATCHES)
def test_the_order_of_the_nodes_does_not_matter(bench, erase, name):
    erased, first = erase(bench.model, 3.0)
    before = bench.sample(CASES[name](bench, erased))
    setup = CASES[name](bench, bench.model)
    setup.model, second = erase(setup.model, 3.0)
    assert torch.equal(bench.sample(setup), before)
    assert first.latest.replaced() == second.latest.replaced() > 0


@pytest.mark.parametrize("name", ["SAG", "PerturbedAttention", "ConditioningCombine", "regional prompts by area"])
def test_only_positive_prompts_are_edited(bench, erase, name):
    """Some guidance nodes ask the model again for one prompt alone, the negative one in the first place."""
    erased, record = erase(bench.model, 3.0)
    bench.sample(CASES[name](bench, erased))
    keys = {key for _, key, _ in record.latest.entries}
    assert len(keys) == (1 if name in ("SAG", "PerturbedAttention") else 2)
    assert {entry.role for entry in record.latest.entries.values()} == {"positive"}
    assert not record.latest.notes


def test_an_area_is_edited_but_not_taken_for_the_whole_image(bench, erase):
    erased, record = erase(bench.model, 3.0)
    bench.sample(CASES["regional prompts by area"](bench, erased))
    there = [entry for entry in record.latest.entries.values() if entry.hookpoint == SITE]
    whole = [entry for entry in there if entry.images is not None]
    areas = [entry for entry in there if entry.images is None]
    assert whole and areas and sum(sum(entry.replaced) for entry in areas) > 0
    _, height, width = shapes(bench.model)[SITE]
    assert {tuple(entry.mask.shape[1:]) for entry in whole} == {(height, width)} == {record.latest.heat().shape[1:]}
    assert {tuple(entry.mask.shape[1:]) for entry in areas} == {(height, width // 2)}


def test_context_windows_are_kept_apart(bench, sae):
    """What persists in one window must not reach the images of the next."""
    from concept_erasure.erasure.detection import Refine
    from concept_erasure.erasure.refinement import Refinement

    def masks(found):
        model, record = put(bench.model, found, "none")
        bench.sample(CASES["context windows"](bench, model))
        assert not record.latest.notes and record.latest.heat().flatten(1).any(1).sum() > 3, "windows are shown"
        return {(entry.images, entry.sigma): entry.mask for entry in record.latest.entries.values()}

    plain, held = masks(detection(sae)), masks(Refine(detection(sae), Refinement(persistence=1)))
    windows = {window for window, _ in plain}
    assert len(windows) == 2 and held.keys() == plain.keys()
    for window in windows:
        # Newer ComfyUI puts an image before a window, so it may hold more than three.
        seen = torch.zeros_like(next(mask for (name, _), mask in plain.items() if name == window))
        for sigma in sorted({sigma for _, sigma in plain}, reverse=True):
            seen |= plain[window, sigma]
            assert torch.equal(held[window, sigma], seen)


def test_a_mask_follows_a_growing_picture_to_an_earlier_block(bench, sae):
    """That block takes what was seen in the step before, when the grid was smaller."""
    from concept_erasure.erasure.attach import attach
    from concept_erasure.erasure.replacement import Replacement

    sides = {path: height for path, (_, height, _) in shapes(bench.model).items()}
    early = next(iter(sides))
    model, record = attach(bench.model, detection(sae), Replacement(), (early,))
    bench.sample(CASES["LCM that grows"](bench, model))
    found, placed = ([e for e in record.latest.entries.values() if e.hookpoint == at] for at in (SITE, early))
    growth = (1, 1.5, 2, 2)
    assert [tuple(e.mask.shape[1:]) for e in found] == [(sides[SITE] * by,) * 2 for by in growth]
    # In the first step nothing was seen yet, so nothing is placed.
    assert [tuple(e.mask.shape[1:]) for e in placed] == [(sides[early] * by,) * 2 for by in growth[1:]]
    for seen, entry in zip(found, placed, strict=False):
        small, large = seen.mask[0], entry.mask[0]
        touched = [[any_touched(small, len(large), i, j) for j in range(len(large))] for i in range(len(large))]
        assert torch.equal(large, torch.tensor(touched)) and entry.replaced == (int(large.sum()),)
    assert all(sum(e.replaced) > 0 for e in placed)


def any_touched(mask, size, row, column):
    """Whether a cell of a grid of so many rows and columns overlaps a set cell of a mask [n, n]."""
    n = len(mask)
    rows, columns = (slice(i * n // size, -(-(i + 1) * n // size)) for i in (row, column))
    return bool(mask[rows, columns].any())


def test_an_edm_model_is_read_at_the_same_noise(bench, erase):
    """Its timesteps are in another unit; thresholds belong to Stable Diffusion's."""
    erased, record = erase(bench.model, 3.0)
    bench.sample(CASES["ModelSamplingContinuousEDM"](bench, erased))
    schedule = bench.model.get_model_object("model_sampling")
    for sigma in record.latest.sigmas():
        assert record.latest.timestep(sigma) == float(schedule.timestep(torch.tensor(sigma)))
    assert max(record.latest.timestep(sigma) for sigma in record.latest.sigmas()) > 900


def test_a_region_with_an_area_is_refused_with_a_reason(bench, sae):
    from concept_erasure.erasure.detection import Refine
    from concept_erasure.erasure.refinement import Refinement

    model, _ = put(bench.model, Refine(detection(sae), Refinement(region=torch.ones(1, 64, 64))))
    with pytest.raises(ValueError, match=r"Mask Refiner: its input 'region' cannot be placed"):
        bench.sample(CASES["regional prompts by area"](bench, model))


@pytest.mark.parametrize(
    ("stored", "computed"),
    [(torch.float8_e4m3fn, torch.float32), (torch.float8_e4m3fn, torch.bfloat16), (torch.bfloat16, None)],
    ids=["fp8, computed in fp32", "fp8, computed in bf16", "bf16"],
)
def test_narrow_weights(bench, erase, stored, computed):
    """As ComfyUI holds them: stored narrow, widened layer by layer where they are used."""
    import comfy.model_management
    from comfy.model_patcher import ModelPatcher
    from concept_erasure.demo_model.unet import UNET_CONFIG, host_model

    narrow = host_model(dict(UNET_CONFIG), stored, computed, torch.device("cpu"))
    kept = bench.model.model.diffusion_model.state_dict()
    narrow.diffusion_model.load_state_dict({key: weight.to(stored) for key, weight in kept.items()})
    device = comfy.model_management.get_torch_device()
    model = ModelPatcher(narrow.eval().requires_grad_(False), load_device=device, offload_device=torch.device("cpu"))
    bare = bench.sample(Setup(model, bench.positive, bench.negative))
    neutral, _ = erase(model, 0.0)
    assert torch.equal(bench.sample(Setup(neutral, bench.positive, bench.negative)), bare)
    erased, record = erase(model, 3.0)
    assert not torch.equal(bench.sample(Setup(erased, bench.positive, bench.negative)), bare)
    full, wide = erase(bench.model, 3.0)
    bench.sample(Setup(full, bench.positive, bench.negative))
    first = record.latest.sigmas()[0]
    agreement = (record.latest.step_mask(first) == wide.latest.step_mask(first)).float().mean()
    assert record.latest.replaced() > 0 and agreement > 0.9


@pytest.mark.skipif(not os.environ.get("TEST_INDUCTOR"), reason="compiles for minutes; set TEST_INDUCTOR to run it")
def test_the_stock_compile_node_with_inductor(bench, erase):
    """Compiled code rounds otherwise; with the pack on it, the model is the uncompiled one to the last bit."""

    def compiled(model):
        return bench.node("comfy_extras.nodes_torch_compile", "TorchCompileModel", model=model, backend="inductor")

    def sample(model):
        return bench.sample(Setup(model, bench.positive, bench.negative, steps=2))

    first = compiled(bench.model)
    fast, bare = sample(first), sample(bench.model)
    assert not torch.equal(fast, bare) and (fast - bare).abs().max() < 1e-2
    erased, record = erase(bench.model, 3.0)
    wanted = sample(erased)
    assert record.latest.replaced() > 0
    for sensitivity, expected in ((0.0, bare), (3.0, wanted)):
        assert torch.equal(sample(erase(first, sensitivity)[0]), expected)
        assert torch.equal(sample(compiled(erase(bench.model, sensitivity)[0])), expected)
    assert torch.equal(sample(first), fast), "what was compiled stays as it was"


def test_one_compiled_model_under_changing_blocks(bench, sae, monkeypatch):
    """Compiled code may not notice that a hook has moved to another block, so what is hooked is not compiled."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from concept_erasure.nodes import files
    from concept_erasure.unet import hooks
    from concept_erasure.unet.loading import load_sae

    compiling, hooked = [], hooks._Session._hooked

    def noted(*args, **kwargs):
        compiling.append(torch.compiler.is_compiling())
        return hooked(*args, **kwargs)

    monkeypatch.setattr(hooks._Session, "_hooked", noted)

    compiled = bench.model.clone()
    set_torch_compile_wrapper(model=compiled, backend="eager")
    bare = bench.sample(Setup(bench.model, bench.positive, bench.negative, steps=1))
    for one in (sae, load_sae(files.resolve(MIDDLE_FILE), MIDDLE_FILE)):
        results = []
        for model in (bench.model, compiled):
            erased, record = put(model, detection(one))
            results.append(bench.sample(Setup(erased, bench.positive, bench.negative, steps=1)))
            assert record.latest.replaced() > 0
        assert torch.equal(*results)
    assert compiling and not any(compiling)
    # Compiling the whole UNet takes long and says no more than compiling the first layers of each kind.
    with torch._dynamo.config.patch(recompile_limit=1):
        assert torch.equal(bench.sample(Setup(compiled, bench.positive, bench.negative, steps=1)), bare)
