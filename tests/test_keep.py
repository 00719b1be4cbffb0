"""Two passes that keep the rest of the image exactly, on the shipped model in real ComfyUI."""

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
from support.compatibility import CASES, Setup, Workbench
from support.demo_model import SMALL, latents
from support.running import detect

PROMPTS = ["A cat image in photo style", "A dog image in comic style", "An image of a cat and a tree in neon style"]
SEEDS = (7, 8, 9)
STEPS = 3
# Samplers whose steps depend on the whole latent.
ADAPTIVE = {"dpm_adaptive"}


@pytest.fixture
def detection(nodes, sae):
    return detect(nodes, sae)[0]


def kept(model, detection, replacement="similar", attempts=1, fill=None, continues=True, **options):
    """A model that keeps the rest, and its record."""
    from concept_erasure.erasure.attach import attach
    from concept_erasure.erasure.keep import Rest
    from concept_erasure.erasure.replacement import Replacement

    return attach(model, detection, Replacement(replacement, **options), None, Rest(attempts, fill, continues))


def run(canvas, model, prompts=PROMPTS, seeds=SEEDS, **options):
    from concept_erasure.dev.demo_model.sampling import sample

    return sample(model, canvas[1], prompts, list(seeds), **{"steps": STEPS, "size": SMALL, **options})


def encode(canvas, text):
    return canvas[1].encode_from_tokens_scheduled(canvas[1].tokenize(text))


def some_region(images, height, width):
    """The upper left quarter of every image but the second."""
    region = torch.zeros(images, height, width, dtype=torch.bool)
    region[:, : height // 2, : width // 2] = True
    region[1:2] = False
    return region


@pytest.fixture
def fixed(monkeypatch):
    """Decide the region without looking, so that few steps do."""
    from concept_erasure.erasure import keep

    monkeypatch.setattr(keep, "find_regions", lambda seen, latents: some_region(*latents[:, 0].shape))
    monkeypatch.setattr(keep, "remains", lambda seen, region: torch.zeros(len(region), dtype=torch.bool))


@pytest.fixture
def sampled(monkeypatch):
    """Count how often a sampler ran."""
    import comfy.samplers

    count, original = SimpleNamespace(runs=0), comfy.samplers.CFGGuider.inner_sample

    def counted(*args, **kwargs):
        count.runs += 1
        return original(*args, **kwargs)

    monkeypatch.setattr(comfy.samplers.CFGGuider, "inner_sample", counted)
    return count


def check(before, after, record):
    """Outside of the region nothing changed at all, and inside something did."""
    region = record.latest.kept.region
    assert torch.equal(before.movedim(1, -1)[~region], after.movedim(1, -1)[~region])
    for image, inside in enumerate(region):
        assert torch.equal(before[image], after[image]) != bool(inside.any())


def is_steady(record):
    from concept_erasure.erasure.keep import UNSTEADY

    return UNSTEADY not in record.latest.notes


def custom(model, canvas, sampler, guided=False, mask=None, images=2):
    """Both outputs of SamplerCustom or, guided, SamplerCustomAdvanced: (latents, the last prediction)."""
    import comfy_extras.nodes_custom_sampler as stock

    latent = {"samples": latents(images), **({} if mask is None else {"noise_mask": mask})}
    positive, negative = encode(canvas, PROMPTS[0]), encode(canvas, "")
    sigmas = stock.BasicScheduler.execute(model, "normal", STEPS, 1.0)[0]
    chosen = stock.KSamplerSelect.execute(sampler)[0] if isinstance(sampler, str) else sampler
    with torch.inference_mode():
        if guided:
            guider = stock.CFGGuider.execute(model, positive, negative, 4.5)[0]
            noise = stock.RandomNoise.execute(7)[0]
            results = stock.SamplerCustomAdvanced.execute(noise, guider, chosen, sigmas, latent).args
        else:
            results = stock.SamplerCustom.execute(model, True, 7, 4.5, positive, negative, chosen, sigmas, latent).args
    return [each["samples"] for each in results]


def test_the_rest_is_the_same_bit_for_bit_with_every_sampler(canvas, detection, fixed):
    """In both outputs of a sampler node: the latents, and the prediction of the last step."""
    import comfy.samplers

    model, record = kept(canvas[0], detection)
    unsteady = set()
    for name in comfy.samplers.KSampler.SAMPLERS:
        before, after = (custom(each, canvas, name, images=1) for each in (canvas[0], model))
        for was, became in zip(before, after, strict=True):
            check(was, became, record)
        if not is_steady(record):
            unsteady.add(name)
    assert unsteady == ADAPTIVE & set(comfy.samplers.KSampler.SAMPLERS)


def sample_unsteadily(model, x, sigmas, extra_args=None, callback=None, **_):
    """A sampler whose steps depend on the whole latent, as those of adaptive ones do."""
    for step, (now, after) in enumerate(itertools.pairwise(sigmas)):
        denoised = model(x, now * x.new_ones(len(x)), **(extra_args or {}))
        denoised = denoised * (1 + denoised.std() / 100)
        callback({"i": step, "denoised": denoised, "x": x})
        x = denoised + (x - denoised) * after / now
    return x


@pytest.mark.parametrize("steady", [True, False])
@pytest.mark.parametrize("guided", [True, False], ids=["SamplerCustomAdvanced", "SamplerCustom"])
def test_both_outputs_of_a_sampler_are_made_of_the_same_passes(canvas, detection, fixed, monkeypatch, steady, guided):
    """Under a noise mask, where each attempt is best of one image and the second image is never edited."""
    import comfy.samplers
    from concept_erasure.erasure import keep

    sampler = "euler" if steady else comfy.samplers.KSAMPLER(sample_unsteadily)
    mask = torch.ones(3, 1, *SMALL)
    mask[..., 2:4] = 0.0
    answers = iter([[False, False, True], [False, False, False]])
    monkeypatch.setattr(keep, "remains", lambda seen, region: torch.tensor(next(answers)))
    model, record = kept(canvas[0], detection, attempts=2)
    before, after = (custom(each, canvas, sampler, guided, mask, 3) for each in (canvas[0], model))
    assert record.latest.kept.passes == 3 and is_steady(record) == steady
    for was, became in zip(before, after, strict=True):
        check(was, became, record)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde", "euler_ancestral_cfg_pp"])
def test_the_rest_is_the_same_bit_for_bit_with_every_scheduler(canvas, detection, fixed, sampler):
    import comfy.samplers

    model, record = kept(canvas[0], detection)
    for name in comfy.samplers.KSampler.SCHEDULERS:
        before, after = (
            run(canvas, each, PROMPTS[:2], SEEDS[:2], sampler=sampler, scheduler=name) for each in (canvas[0], model)
        )
        check(before, after, record)
        assert is_steady(record), name


def test_nothing_found_means_one_pass_and_the_same_image(canvas, nodes, sae, sampled):
    """Also the random numbers drawn afterwards are those of a run without the pack."""
    nothing = detect(nodes, sae, sensitivity=0.0)[0]
    model, record = kept(canvas[0], nothing)
    torch.manual_seed(1)
    before, drawn = run(canvas, canvas[0], PROMPTS[1:2], (8,)), torch.rand(3)
    torch.manual_seed(1)
    sampled.runs = 0
    after = run(canvas, model, PROMPTS[1:2], (8,))
    assert torch.equal(before, after) and torch.equal(torch.rand(3), drawn)
    assert sampled.runs == record.latest.kept.passes == 1
    assert record.latest.remaining == (False,) and "not found" in record.latest.summary()


def test_two_passes_for_all_replacers_in_a_row(canvas, sae, nodes, fixed, sampled):
    first, one = kept(canvas[0], detect(nodes, sae)[0])
    both, two = kept(first, detect(nodes, sae, concept="dog")[0])
    before = run(canvas, canvas[0])
    sampled.runs = 0
    check(before, run(canvas, both), two)
    assert sampled.runs == 2 and one.latest.kept.passes == two.latest.kept.passes == 2
    assert len(one.runs) == len(two.runs) == 1
    sampled.runs = 0
    check(before, run(canvas, first), one)
    assert sampled.runs == 2 and len(two.runs) == 1, "the first model knows nothing of the second replacer"


def test_only_looking_takes_one_pass(canvas, detection, sampled):
    from concept_erasure.nodes.patch_replacer import PatchReplacer
    from concept_erasure.reports.preview import region_mask

    fill, usual = encode(canvas, "A dog image in photo style"), ("middle and SAE block", 0.25, "positive", 0, "")
    before = run(canvas, canvas[0])
    for inputs in ({}, {"fill": fill}):
        sampled.runs = 0
        model, record = PatchReplacer.execute(canvas[0], detection, "none", *usual, **inputs).args
        assert torch.equal(run(canvas, model), before) and sampled.runs == 1
        assert not region_mask(record.latest, (64, 64)).any(), "nothing may have changed"
        assert record.latest.heat()[1:].any() and "0 patch embeddings replaced" in record.latest.figures()


def test_images_to_images_masks_and_parts_of_a_schedule(canvas, detection, fixed):
    import comfy.sample

    model, record = kept(canvas[0], detection)
    positive, negative = encode(canvas, PROMPTS[0]), encode(canvas, "")
    start = run(canvas, canvas[0], PROMPTS[1:2], (3,)).repeat(3, 1, 1, 1)
    noise = comfy.sample.prepare_noise(start, 4)
    mask = torch.zeros(1, 1, *start.shape[-2:])
    mask[..., 2:] = 1.0
    ways = {
        "image to image": {"denoise": 0.6},
        "noise mask": {"noise_mask": mask},
        "first part": {"last_step": 2, "force_full_denoise": False},
        "second part": {"start_step": 2, "disable_noise": True},
    }
    for name, options in ways.items():
        before, after = (
            comfy.sample.sample(
                each, noise, 4, 4.5, "euler", "normal", positive, negative, start, seed=4, disable_pbar=True, **options
            )
            for each in (canvas[0], model)
        )
        check(before, after, record)
        assert is_steady(record), name


def test_where_a_noise_mask_locks_the_concept_no_second_pass_is_paid_for(canvas, detection, fixed, sampled):
    """The region is the upper left quarter of images 1 and 3; the masks let only the other half of an image change."""
    import comfy.sample
    from concept_erasure.erasure.keep import LOCKED

    model, record = kept(canvas[0], detection, attempts=3)
    start = run(canvas, canvas[0], PROMPTS, SEEDS, steps=2)
    noise = comfy.sample.prepare_noise(start, 4)
    mask = torch.ones(len(start), 1, *start.shape[-2:])
    mask[:, :, : start.shape[-2] // 2] = 0.0
    positive, negative = encode(canvas, PROMPTS[0]), encode(canvas, "")

    def both(mask):
        args = (noise, 2, 4.5, "euler", "normal", positive, negative, start)
        before = comfy.sample.sample(canvas[0], *args, noise_mask=mask, seed=4, disable_pbar=True)
        sampled.runs = 0
        return before, comfy.sample.sample(model, *args, noise_mask=mask, seed=4, disable_pbar=True)

    before, after = both(mask)
    assert torch.equal(before, after) and sampled.runs == 1
    assert record.latest.remaining == (True, False, True) and LOCKED in record.latest.notes
    assert "found in image 1 and 3" in record.latest.summary() and "Widen the mask" in record.latest.summary()
    mask[2] = 1.0
    before, after = both(mask)
    assert sampled.runs == 2 and torch.equal(before[:2], after[:2]) and not torch.equal(before[2], after[2])
    assert record.latest.remaining == (True, False, False) and LOCKED in record.latest.notes


@pytest.fixture(scope="module")
def bench(canvas, tmp_path_factory):
    import folder_paths

    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("loras", "controlnet"):
            patch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], {".safetensors"}))
        yield Workbench(canvas, folder)


@pytest.mark.parametrize("name", [name for name in CASES if name != "LCM that grows"])
def test_the_rest_is_kept_beside_other_nodes(canvas, detection, fixed, bench, name):
    model, record = kept(canvas[0], detection)
    before, after = (bench.sample(CASES[name](bench, each)) for each in (canvas[0], model))
    check(before, after, record)
    assert is_steady(record)


def test_a_sampler_that_draws_from_the_global_generator_draws_the_same_twice(canvas, detection, fixed, bench):
    """Those of ComfyUI's list have generators of their own; with churn Euler has not."""
    import comfy.samplers

    sigmas = comfy.samplers.calculate_sigmas(canvas[0].get_model_object("model_sampling"), "normal", 4)
    sampler = comfy.samplers.ksampler("euler", {"s_churn": 4.0})
    model, record = kept(canvas[0], detection)
    before, after = (
        bench.sample(Setup(each, bench.positive, bench.negative, sampler=sampler, sigmas=sigmas))
        for each in (canvas[0], model)
    )
    assert not torch.equal(before, run(canvas, canvas[0], PROMPTS[:1], (7,), steps=4))
    check(before, after, record)
    assert is_steady(record)


def test_the_rest_is_kept_where_a_sampler_changes_the_size(canvas, detection, fixed, bench):
    model, _ = kept(canvas[0], detection)
    before, after = (bench.sample(CASES["LCM that grows"](bench, each)) for each in (canvas[0], model))
    right = before.shape[-1] // 2 + 1
    assert torch.equal(before[..., right:], after[..., right:]) and not torch.equal(before, after)


def test_an_interruption_leaves_nothing(canvas, detection, fixed):
    import comfy.model_management
    import comfy.sample

    model, record = kept(canvas[0], detection)
    before = run(canvas, canvas[0])
    calls = []

    def interrupt(step, *_):
        calls.append(step)
        if step == STEPS + 1:
            raise comfy.model_management.InterruptProcessingException

    noise = torch.randn(3, *before.shape[1:], generator=torch.Generator().manual_seed(1))
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        comfy.sample.sample(
            model, noise, STEPS, 4.5, "euler", "normal", encode(canvas, PROMPTS[0]), encode(canvas, ""),
            torch.zeros_like(noise), seed=1, callback=interrupt, disable_pbar=True,
        )  # fmt: skip
    assert calls == list(range(STEPS + 2)), "the second pass goes on counting"
    network = model.model.diffusion_model
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(before, run(canvas, canvas[0]))
    check(before, run(canvas, model), record)


def test_the_bar_counts_both_passes_and_the_last_prediction_is_that_of_the_result(canvas, detection, fixed):
    import comfy.sample

    model, _ = kept(canvas[0], detection)
    noise = torch.randn(3, *run(canvas, canvas[0]).shape[1:], generator=torch.Generator().manual_seed(1))
    told = []

    def tell(step, predicted, _, steps):
        told.append((step, steps, predicted))

    result = comfy.sample.sample(
        model, noise, STEPS, 4.5, "euler", "normal", encode(canvas, PROMPTS[0]), encode(canvas, ""),
        torch.zeros_like(noise), seed=1, callback=tell, disable_pbar=True,
    )  # fmt: skip
    assert [step for step, *_ in told[: 2 * STEPS]] == list(range(2 * STEPS))
    assert {steps for _, steps, _ in told} == {2 * STEPS}
    torch.testing.assert_close(told[-1][2], result)


def test_it_tries_again_while_the_concept_remains_and_keeps_the_best(canvas, detection, fixed, monkeypatch, sampled):
    from concept_erasure.erasure import keep

    answers = iter([[True, False, True], [True, False, False], [True, False, True]])
    monkeypatch.setattr(keep, "remains", lambda seen, region: torch.tensor(next(answers)))
    before = run(canvas, canvas[0])
    sampled.runs = 0
    model, record = kept(canvas[0], detection, attempts=3)
    after = run(canvas, model)
    check(before, after, record)
    assert sampled.runs == 4 and record.latest.remaining == (True, False, False)
    first, none, second = record.latest.kept.region.sum((1, 2)).tolist()
    assert second > first > none == 0, "a further try grows the region"
    assert "still found in image 1 of 3" in record.latest.summary()
    # The first try is best of the first image, the second one of the third.
    tries = []
    for number in (1, 2):
        answers = iter([[True, False, True]] * (number - 1) + [[False] * 3])
        monkeypatch.setattr(keep, "remains", lambda seen, region, answers=answers: torch.tensor(next(answers)))
        tries.append(run(canvas, model))
    assert torch.equal(after[0], tries[0][0]) and torch.equal(after[2], tries[1][2])
    assert not torch.equal(tries[0][2], tries[1][2])


def test_a_fill_is_followed_inside_the_region_only(canvas, detection, fixed, monkeypatch):
    from concept_erasure.nodes.patch_replacer import PatchReplacer
    from concept_erasure.unet import opening

    usual = ("similar", "middle and SAE block", 0.25, "positive", 0, "")
    before = run(canvas, canvas[0])
    results = {}
    for text in ("A dog image in photo style", "A tree image in photo style"):
        model, record = PatchReplacer.execute(canvas[0], detection, *usual, fill=encode(canvas, text)).args
        results[text] = run(canvas, model)
        check(before, results[text], record)
        assert record.latest.replaced() == 0 and is_steady(record)
        share = record.latest.kept.region.float().mean()
        assert share > 0 and f", {share:.1%} of the image filled." in record.latest.figures()
    assert not torch.equal(*results.values())
    chosen = {"fill": encode(canvas, "A dog image in photo style"), "fill_shows": "new object"}
    new = run(canvas, PatchReplacer.execute(canvas[0], detection, *usual, **chosen).args[0])
    assert not torch.equal(new, results["A dog image in photo style"]), "nothing continues into a new object"
    own = torch.cat([encode(canvas, text)[0][0] for text in PROMPTS])
    monkeypatch.setattr(opening, "rearranged", lambda noise, number: noise)
    whole, _ = kept(canvas[0], detection, fill=own, continues=False)
    # Fewer rows at once may be added up in another order.
    torch.testing.assert_close(run(canvas, whole), before, atol=1e-2, rtol=0.0)


def with_own_cross_attention(model):
    """The model with a node's own computation of all cross-attention, as IP-Adapter has it."""
    from comfy.ldm.modules.attention import optimized_attention

    def compute(q, k, v, extra):
        return optimized_attention(q, k, v, extra["n_heads"])

    changed = model.clone()
    for number in range(12):
        for part in ("input", "middle", "output"):
            changed.set_model_attn2_replace(compute, part, number)
    return changed


@pytest.mark.parametrize("other", [False, True], ids=["alone", "beside IP-Adapter"])
def test_late_steps_replace_patches_only_where_cross_attention_is_not_seen(canvas, detection, fixed, other):
    from concept_erasure.unet.hooks import REPLACED

    model, record = kept(with_own_cross_attention(canvas[0]) if other else canvas[0], detection)
    run(canvas, model, steps=8)
    replaced = {entry.sigma: sum(entry.replaced) > 0 for entry in record.latest.entries.values()}
    assert min(replaced) < 1 < max(replaced)
    assert all(replaced[sigma] == (sigma > 1 or other) for sigma in replaced)
    assert REPLACED not in record.latest.notes, "it is edited nevertheless"


def test_a_fill_without_effect_is_said(canvas, detection, fixed):
    from concept_erasure.unet.hooks import REPLACED

    fill = encode(canvas, "A dog image in photo style")[0][0]
    for model, other in ((canvas[0], False), (with_own_cross_attention(canvas[0]), True)):
        edited, record = kept(model, detection, fill=fill)
        run(canvas, edited)
        assert (REPLACED in record.latest.notes) == other


def test_a_run_that_begins_with_little_noise_replaces_patches_too(canvas, detection, fixed):
    """Image to image, in which patches are replaced down to a quarter of the first noise level."""
    import comfy.sample

    model, record = kept(canvas[0], detection)
    positive, negative = encode(canvas, PROMPTS[0]), encode(canvas, "")
    start = run(canvas, canvas[0])
    noise = comfy.sample.prepare_noise(start, 4)
    comfy.sample.sample(
        model, noise, 8, 4.5, "euler", "normal", positive, negative, start, seed=4, disable_pbar=True, denoise=0.3
    )
    replaced = {entry.sigma: sum(entry.replaced) > 0 for entry in record.latest.entries.values()}
    first = max(replaced)
    assert first < 2 and replaced[first] and not replaced[min(replaced)]


def test_a_fill_of_another_model_is_refused(canvas, detection):
    from concept_erasure.nodes.patch_replacer import PatchReplacer

    usual = ("similar", "middle and SAE block", 0.25, "positive", 0, "")
    wide = [[torch.zeros(1, 77, 2048), {}]]
    with pytest.raises(ValueError, match=r"Patch Replacer: input 'fill' .* width 2048|'fill' is a text embedding"):
        PatchReplacer.execute(canvas[0], detection, *usual, fill=wide)
    with pytest.raises(ValueError, match="'fill' holds 2 prompts"):
        PatchReplacer.execute(canvas[0], detection, *usual, fill=encode(canvas, "A dog image") * 2)


def test_a_fill_for_another_number_of_images_is_refused(canvas, detection):
    model, _ = kept(canvas[0], detection, fill=encode(canvas, PROMPTS[0])[0][0].repeat(2, 1, 1))
    with pytest.raises(ValueError, match=r"Patch Replacer: input 'fill' holds 2 text embeddings, but 3 image"):
        run(canvas, model)


def test_predictions_go_to_the_cpu_where_memory_is_short(canvas, detection, fixed, monkeypatch):
    from concept_erasure.unet import passes

    homes = []
    original = passes.Passes._home
    monkeypatch.setattr(passes.Passes, "_home", lambda *args: homes.append(original(*args)) or homes[-1])
    monkeypatch.setattr(passes, "CPU", torch.device("meta"), raising=True)
    model, _ = kept(canvas[0], detection)
    run(canvas, model, PROMPTS[:1], (7,))
    monkeypatch.setattr(passes, "MOST_OF_MEMORY", 0.0)
    with pytest.raises(Exception, match="meta"):
        run(canvas, model, PROMPTS[:1], (7,))
    assert homes == [torch.device("cpu"), torch.device("meta")]


def test_may_change_is_the_method_as_it_was(canvas, detection):
    from concept_erasure.erasure.attach import attach
    from concept_erasure.erasure.replacement import Replacement
    from concept_erasure.nodes.patch_replacer import PatchReplacer
    from concept_erasure.reports.preview import region_mask

    usual = ("similar", "middle and SAE block", 0.25, "positive", 0, "")
    model, record = PatchReplacer.execute(canvas[0], detection, *usual, rest="may change").args
    published, _ = attach(canvas[0], detection, Replacement())
    assert torch.equal(run(canvas, model), run(canvas, published))
    assert record.latest.kept is None and len(record.latest.remaining) == len(PROMPTS)
    reached = region_mask(record.latest, (64, 64)).flatten(1)
    assert (reached.min(1).values == reached.max(1).values).all(), "any edit may reach all of its image"
    assert reached.any(1).tolist() == [any(record.latest.edited_shares(i)) for i in range(len(PROMPTS))]


def test_the_record_has_each_image_from_the_pass_that_made_it(canvas, detection, fixed):
    model, record = kept(canvas[0], detection)
    after = run(canvas, model)
    made = record.made(after[[1, 0]])
    assert made is not None and made.images == 2
    assert not any(made.edited_shares(0)) and any(made.edited_shares(1))
    assert not made.kept.region[0].any() and made.kept.region[1].any()
    assert made.seen.replaced() == 0
    unedited = run(canvas, canvas[0])
    assert record.made(unedited[1:2]) is not None and record.made(unedited[:1]) is None


def test_the_preview_shows_the_region_and_says_what_remains(canvas, detection, fixed, monkeypatch):
    from concept_erasure.erasure import keep
    from concept_erasure.nodes.detection_preview import DetectionPreview

    model, record = kept(canvas[0], detection)
    image = canvas[2].decode(run(canvas, model))
    preview, mask, remaining, said = DetectionPreview.execute(record, image, 0, "region").args
    region, factor = record.latest.kept.region, mask.shape[-1] // record.latest.kept.region.shape[-1]
    assert torch.equal(mask[:, ::factor, ::factor] > 0.5, region) and set(mask.unique().tolist()) == {0.0, 1.0}
    assert not remaining and "found in image 1 and 3 of 3" in said and len(preview) == len(image)
    monkeypatch.setattr(keep, "remains", lambda seen, region: torch.tensor([True, True, False]))
    image = canvas[2].decode(run(canvas, model))
    preview, _, remaining, said = DetectionPreview.execute(record, image, 0, "any step").args
    assert remaining and "still found in image 1 of 3" in said
    assert preview.shape[1] > image.shape[1], "and it is written below the image"


def test_a_copy_of_the_model_directs_the_same_run(canvas, detection, fixed):
    """Other nodes deep-copy the options of a model."""
    model, record = kept(canvas[0], detection)
    other = model.clone()
    other.model_options = copy.deepcopy(other.model_options)
    check(run(canvas, canvas[0]), run(canvas, other), record)


@pytest.mark.parametrize("failing", [1, STEPS + 1])
def test_invalid_values_in_either_pass_leave_nothing(canvas, detection, sae, fixed, failing):
    from concept_erasure.unet.calls import NonFiniteActivations
    from concept_erasure.unet.passes import director_of

    model, record = kept(canvas[0], detection)
    before = run(canvas, canvas[0])
    calls = []

    def spoil(_module, _inputs, output):
        calls.append(1)
        return output * float("nan") if len(calls) == failing else output

    handle = canvas[0].model.diffusion_model.get_submodule(sae.config.hookpoint).register_forward_hook(spoil)
    try:
        with pytest.raises(NonFiniteActivations):
            run(canvas, model)
    finally:
        handle.remove()
    (member,) = director_of(model).members
    assert member.eraser.task is None and member.eraser.evidence.gather(3, before.shape[-2:]) is None
    check(before, run(canvas, model), record)


def test_a_record_beside_it_knows_images_of_several_passes(canvas, detection, sae, nodes, fixed, monkeypatch):
    from concept_erasure.erasure import keep
    from concept_erasure.erasure.attach import attach
    from concept_erasure.erasure.replacement import Replacement

    looking, beside = attach(canvas[0], detect(nodes, sae, concept="dog", sensitivity=6)[0], Replacement("none"))
    model, record = kept(looking, detection, attempts=2)
    answers = iter([[False, False, True], [True, False, False]])
    monkeypatch.setattr(keep, "remains", lambda seen, region: torch.tensor(next(answers)))
    after = run(canvas, model)
    assert len(beside.runs) == record.latest.kept.passes == 3
    first, second = beside.runs[1:]
    found = beside.made(after[[2, 0]])
    assert found is not None and found.images == 2
    assert found.fingerprints == [second.fingerprints[2], first.fingerprints[0]]
    assert not torch.equal(first.heat()[2], second.heat()[2]), "or the next line says nothing"
    assert torch.equal(found.heat(), torch.stack([second.heat()[2], first.heat()[0]]))
    # Images of the same noise with other prompts are no passes of one run.
    other = run(canvas, looking, PROMPTS[::-1])
    assert beside.made(torch.stack([other[0], after[2]])) is None
