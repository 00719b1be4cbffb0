"""A GPU without a GPU: what runs inside a sampling step stays on the feature map's device and never waits for it.

Under FakeTensorMode tensors with device="cuda" exist on any machine. Reading one back raises there (.item(),
.nonzero(), bool()), and so do operations on mixed devices; copies between devices are counted.
"""

import pytest
import torch
from support.calls import call_of, run_of
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

# (rows of a prompt, channels, height, width) of the block an SAE reads: SD1.5 at 512 px, SDXL at 1024 px, not square.
MAPS = {"SD1.5": (2, 1280, 16, 16), "SDXL": (1, 1280, 32, 32), "wide": (1, 640, 24, 40)}
ACTIVATIONS = ("topk", "topk_sigmoid", "groupmax", "relu", "jumprelu", "gated")
INDEXED = tuple(getattr(torch.ops.aten, name).default for name in ("index_put", "index_put_", "_index_put_impl_"))
INDEXED = (torch.ops.aten.index.Tensor, *INDEXED)


class Transfers(TorchDispatchMode):
    """Counts copies between devices, by direction; indices on the CPU are one too."""

    def __init__(self):
        super().__init__()
        self.to_cpu = self.to_device = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[1] if function is torch.ops.aten.copy_.default else args[0]
            self.to_cpu += source.device.type != "cpu" and result.device.type == "cpu"
            self.to_device += source.device.type == "cpu" and result.device.type != "cpu"
        if function in INDEXED and args[0].device.type != "cpu":
            self.to_device += sum(index is not None and index.device.type == "cpu" for index in args[1])
        return result


@pytest.fixture
def fake(pack):
    with FakeTensorMode():
        yield


def sae_of(activation, width, dtype, normalize="none", reads="output"):
    """A LoadedSAE as far as the eraser needs it, on the GPU."""
    from types import SimpleNamespace

    from concept_erasure.sae_models.sae import SAEConfig, SparseAutoencoder

    config = SAEConfig(width, 2048, 32, "output_blocks.4.1", reads, activation, normalize=normalize)
    module = SparseAutoencoder(config, device="cuda", dtype=dtype).requires_grad_(False)
    return SimpleNamespace(config=config, module=module)


def concept_of(against=()):
    from concept_erasure.sae_models.concepts import Concept, ConceptBand

    early = ConceptBand((3, 40, 900), (0.5, 0.2, 0.1), against=against, against_thresholds=(0.4,) * len(against))
    return Concept("cat", (0.0, 500.0, 1000.0), (early, ConceptBand((7,), (0.3,))), "sum")


def steps(detection, replacement, shape, dtype, count=2, blocks=("middle_block.1", "output_blocks.4.1"), task=None):
    """Run some sampling steps on fake CUDA maps: (outputs, transfers during them, the eraser and its run)."""
    from concept_erasure.erasure.eraser import Eraser
    from concept_erasure.erasure.history import ErasureRecord

    images, channels, height, width = shape
    eraser = Eraser(detection, replacement, ErasureRecord(), blocks)
    run = run_of(images, (2 * height, 2 * width))
    eraser.task = task
    eraser.begin(run)
    half = torch.zeros(2 * images, channels, height // 2, width // 2, device="cuda", dtype=dtype)
    whole = torch.zeros(2 * images, channels, height, width, device="cuda", dtype=dtype)
    calls = [call_of(run, 10.0 / step, 900.0 / step, step, "cuda") for step in range(1, count + 1)]
    outputs = []
    with Transfers() as transfers:
        for call in calls:
            for hookpoint, x in (("middle_block.1", half), ("output_blocks.4.1", whole)):
                outputs.append(eraser.on_block(hookpoint, x, x + 1, call))
            eraser.end_call(call)
    return outputs, transfers, eraser, run


def detect(sae, concept=None, **more):
    from concept_erasure.erasure.detection import Detector

    return Detector(sae, concept or concept_of(), 1.0, **more)


def replacement(mode="similar", **more):
    from concept_erasure.erasure.replacement import Replacement

    return Replacement(mode, **more)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", MAPS)
@pytest.mark.parametrize("mode", ["similar", "random", "nearest", "none"])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_every_mode_stays_on_the_device(fake, mode, size, dtype, share):
    sae = sae_of("topk", MAPS[size][1], dtype)
    outputs, transfers, _, _ = steps(detect(sae), replacement(mode, source_share=share), MAPS[size], dtype)
    assert all(output.device.type == "cuda" and output.dtype == dtype for output in outputs)
    assert transfers.to_cpu == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalize", ["none", "layer_norm"])
@pytest.mark.parametrize("against", [(), (5, 6)])
def test_every_kind_of_sae_stays_on_the_device(fake, activation, normalize, against, dtype):
    sae = sae_of(activation, 1280, dtype, normalize, "output_minus_input")
    found = detect(sae, concept_of(against))
    _, transfers, _, _ = steps(found, replacement(), MAPS["SD1.5"], torch.float16)
    assert transfers.to_cpu == 0


@pytest.mark.parametrize(
    ("settings", "transfers_a_step"),
    [
        ({"grow": 1}, 0),
        ({"grow": -1, "close": 2}, 0),
        ({"persistence": 2, "min_area": 0.1}, 0),
        ({"region": "one"}, 0),
        ({"region": "each"}, 0),
        ({"min_patches": 4}, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", MAPS)
def test_every_refinement_stays_on_the_device(fake, settings, transfers_a_step, size):
    from concept_erasure.erasure.detection import Refine
    from concept_erasure.erasure.refinement import Refinement

    images = MAPS[size][0]
    regions = {"one": torch.ones(1, 64, 64), "each": torch.ones(images, 64, 64)}
    settings = {name: regions.get(value, value) for name, value in settings.items()}
    found = Refine(detect(sae_of("topk", MAPS[size][1], torch.float16)), Refinement(**settings))
    if transfers_a_step:
        # Connected groups are found on the CPU, which a fake tensor has no values for: that it goes there is the test.
        with pytest.raises(Exception, match=r"Fake|numpy|meta"):
            steps(found, replacement(), MAPS[size], torch.float16)
        return
    _, transfers, _, _ = steps(found, replacement(), MAPS[size], torch.float16, 3)
    assert transfers.to_cpu == 0


def test_specks_take_one_transfer_there_and_one_back(fake, monkeypatch):
    from concept_erasure.erasure import masks, refinement
    from concept_erasure.erasure.detection import Refine
    from concept_erasure.erasure.refinement import Refinement

    def through_the_cpu(mask, _least):
        return mask.cpu().to(mask.device, non_blocking=True)

    monkeypatch.setattr(refinement, "drop_specks", through_the_cpu)
    assert masks.shape is refinement.shape
    found = Refine(detect(sae_of("topk", 1280, torch.float16)), Refinement(min_patches=4))
    _, transfers, _, _ = steps(found, replacement(), MAPS["SD1.5"], torch.float16, 3)
    assert transfers.to_cpu == 3, "once a step, though two blocks use the mask"


def test_joined_detectors_and_parts_of_the_run_stay_on_the_device(fake):
    from concept_erasure.erasure.detection import Join

    sae = sae_of("topk", 1280, torch.float16)
    for mode in ("union", "intersection"):
        both = Join(mode, detect(sae, start=0.2, end=0.8), detect(sae, end=0.5))
        outputs, transfers, _, _ = steps(both, replacement(apply_to="both"), MAPS["SD1.5"], torch.float16, 3)
        assert transfers.to_cpu == 0 and all(output.device.type == "cuda" for output in outputs)


@pytest.mark.parametrize("filled", [False, True])
def test_edits_inside_a_region_stay_on_the_device(fake, filled):
    from concept_erasure.erasure.eraser import Task
    from concept_erasure.erasure.evidence import RegionMask

    images, channels, height, width = MAPS["wide"]
    region = RegionMask(torch.ones(images, 2 * height, 2 * width, dtype=torch.bool))
    fill = torch.zeros(1, 77, 768) if filled else None
    task = Task(region, fill)
    found = detect(sae_of("topk", channels, torch.float16))
    _, few, eraser, run = steps(found, replacement(), MAPS["wide"], torch.float16, 2, task=task)
    assert few.to_cpu == 0 and few.to_device <= 8
    query = torch.zeros(2 * images, height * width, 320, device="cuda", dtype=torch.float16)
    call = call_of(run, 2.0, 100.0, 3, "cuda", size=(2 * height, 2 * width))
    with Transfers() as transfers:
        given = [eraser.on_attention(lambda query, context: query, query, query + 1, call) for _ in range(3)]
    assert given[0].device.type == "cuda" and transfers.to_cpu == 0 and transfers.to_device <= 2


def passes_of(images, size, mask, noise_on):
    """A run of a sampler whose latents come with a noise mask."""
    from types import SimpleNamespace

    from concept_erasure.unet.passes import Passes

    # The state of the random numbers is that of a real device, which a fake one has none of.
    guider = SimpleNamespace(conds={}, model_options={}, model_patcher=SimpleNamespace(load_device=torch.device("cpu")))
    start = torch.zeros(images, 4, *size, device=noise_on)
    return Passes(SimpleNamespace(class_obj=guider), start, start, (), {"denoise_mask": mask})


@pytest.mark.parametrize("size", MAPS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("scale", [1, 8])
@pytest.mark.parametrize("masks", ["one", "each"])
def test_where_a_noise_mask_lets_anything_change_is_known_on_the_cpu(fake, size, device, scale, masks):
    """Regions are decided there. The mask comes from anywhere, in the size of the image as a rule; no value is read."""
    images, _, height, width = MAPS[size]
    latent, region = (2 * height, 2 * width), (height, width)
    count = 1 if masks == "one" else images
    mask = torch.ones(count, 1, scale * latent[0], scale * latent[1], device=device)
    with Transfers() as transfers:
        answers = [passes_of(images, latent, mask, device).editable(grid) for grid in (latent, region)]
    for answer, grid in zip(answers, (latent, region), strict=True):
        assert answer.device.type == "cpu" and answer.dtype == torch.bool
        assert answer.shape == (images, *grid)
    assert transfers.to_device == 0 and transfers.to_cpu == (2 if device == "cuda" else 0)
    alone = passes_of(images, latent, None, device).editable(region)
    assert alone.device.type == "cpu" and alone.shape == (images, *region)


def test_a_noise_mask_is_each_images_own_also_where_comfyui_has_prepared_it(pack):
    """ComfyUI 0.33 gives it on every channel of the latents, older ones as the node has it."""
    import comfy.sampler_helpers

    raw = torch.zeros(3, 1, 8, 6)
    raw[1, :, :4], raw[2] = 1.0, 1.0
    prepared = comfy.sampler_helpers.prepare_mask(raw, (3, 4, 8, 6), torch.device("cpu"))
    assert prepared.shape == (3, 4, 8, 6)
    for mask in (raw, prepared):
        assert torch.equal(passes_of(3, (8, 6), mask, "cpu").editable((8, 6)), raw[:, 0] > 0)


def seam_of(free):
    """The seam of regions, a real mask [B, H, W], with all that it holds on the fake GPU."""
    from concept_erasure.unet.seam import Seam
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily():
        seam = Seam(free, torch.device("meta"))

    def there(x):
        # What was not moved when the seam was made stays where it is, and is noticed.
        return torch.empty(x.shape, dtype=x.dtype, device="cuda" if x.device.type == "meta" else "cpu")

    seam._sides = [tuple(map(there, side)) for side in seam._sides]
    seam._parts = [(image, part._make(map(there, part))) for image, part in seam._parts]
    return seam


@pytest.fixture
def free(pack):
    """The region of the second of two images; a real mask."""
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[1, 20:40, 10:30] = True
    return mask


def test_a_region_continues_its_surroundings_without_waiting(free, fake):
    """Also where the predictions of the first pass are kept on the CPU, as they are if memory is short."""
    seam = seam_of(free)
    assert seam._parts
    for home in ("cuda", "cpu"):
        edited, around = torch.zeros(2, 4, 64, 64, device="cuda"), torch.zeros(2, 4, 64, 64, device=home)
        with Transfers() as transfers:
            made = seam.continued(edited, around, torch.ones(2, device="cuda"))
        assert made.device.type == "cuda" and made.shape == edited.shape
        assert transfers.to_cpu == 0 and transfers.to_device == (home == "cpu")


SIGMAS = (10.0, 5.0, 2.0)


class Sampling:
    """A sampler of the CFG++ kind around ``Passes.predict``, as the executor of a run.

    Attributes:
        calls: copies between devices in each prediction, a list for each pass: (to the CPU, to the GPU).
        given: what the sampler took as the unconditional prediction, as many.
    """

    def __init__(self, guided, dtype=torch.float32):
        from types import SimpleNamespace

        # The state of the random numbers is that of a real device, which a fake one has none of.
        patcher = SimpleNamespace(load_device=torch.device("cpu"))
        self.class_obj = SimpleNamespace(conds={}, model_options={}, model_patcher=patcher)
        self.guided, self.dtype, self.passes = guided, dtype, None
        self.calls, self.given = [], []

    def __call__(self, noise, latent_image, **_named):
        self.calls.append([])
        self.given.append([])
        x = self.passes.noise(noise)
        for level in SIGMAS:
            sigma = torch.full((len(x),), level, device="cuda")
            options = {"sampler_post_cfg_function": [self.post]} if self.guided else {}
            with Transfers() as transfers:
                denoised = self.passes.predict(self.predicted, x, sigma, options, None)
            assert denoised.device.type == "cuda" and denoised.dtype == self.dtype
            self.calls[-1].append((transfers.to_cpu, transfers.to_device))
            x = denoised + (x - denoised) * 0.5
        return x

    def predicted(self, x, sigma, options, _seed):
        denoised, unconditional = (x - sigma[:, None, None, None]).to(self.dtype), (2 * x).to(self.dtype)
        for post in options.get("sampler_post_cfg_function", ()):
            denoised = post({"denoised": denoised, "uncond_denoised": unconditional})
        return denoised

    def post(self, args):
        self.given[-1].append(args["uncond_denoised"])
        return args["denoised"] + 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("guided", [False, True], ids=["plain", "CFG++"])
@pytest.mark.parametrize("memory", ["plenty", "short"])
def test_two_passes_wait_for_nothing(free, fake, monkeypatch, memory, guided, dtype):
    """Recording, other noise, putting back, the seam, and the unconditional prediction of a CFG++ sampler.

    Only where memory is short does anything leave the GPU: each prediction as it is recorded, and again to be put back.
    """
    import comfy.model_management
    from concept_erasure.unet import opening, passes

    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda _: 2**40 if memory == "plenty" else 1)
    monkeypatch.setattr(opening, "Seam", lambda _free, device: seam_of(free) if device.type == "cuda" else None)
    sampling = Sampling(guided, dtype)
    start = torch.zeros(2, 4, 64, 64, device="cuda")
    run = passes.Passes(sampling, start, start, (), {"sigmas": torch.tensor([*SIGMAS, 0.0])})
    sampling.passes = run
    run.first()
    region = torch.ones(2, 64, 64, dtype=torch.bool)
    with Transfers() as transfers:
        result = run.again(opening.Opening(region, region, 3.0, torch.zeros(2), 1))
    assert result.device.type == "cuda" and transfers.to_cpu == 0
    first, second = sampling.calls
    recorded = 0 if memory == "plenty" else 1 + guided
    assert first == [(recorded, 0)] * len(SIGMAS)
    # The seam takes the recorded prediction too.
    assert second == [(0, recorded + (recorded > 0))] * len(SIGMAS)
    assert [len(each) for each in sampling.given] == [guided * len(SIGMAS)] * 2
    assert all(each.device.type == "cuda" and each.dtype == dtype for given in sampling.given for each in given)


def test_what_goes_to_the_device_does_not_grow_with_the_steps(fake):
    """Thresholds and the region go there once a run; random draws are made on the CPU, one transfer a block."""
    sae = sae_of("topk", 1280, torch.float16)
    for mode, each in (("similar", 0), ("random", 2)):
        few, many = (
            steps(detect(sae), replacement(mode), MAPS["SD1.5"], torch.float16, count)[1].to_device for count in (2, 5)
        )
        assert many - few == 3 * each


def test_a_planted_read_is_noticed(fake, monkeypatch):
    """The test of the tests: one look at a value of a mask, or one mask kept on the CPU, must fail."""
    from concept_erasure.erasure import eraser

    sae, plain = sae_of("topk", 1280, torch.float16), eraser.source_pool
    monkeypatch.setattr(eraser, "source_pool", lambda mask, *rest: plain(mask, *rest) if mask.any().item() else None)
    with pytest.raises(Exception, match="_local_scalar_dense"):
        steps(detect(sae), replacement(), MAPS["SD1.5"], torch.float16)
    monkeypatch.setattr(eraser, "source_pool", lambda mask, score, share: plain(mask.cpu(), score, share))
    with pytest.raises(RuntimeError, match="device"):
        steps(detect(sae), replacement(), MAPS["SD1.5"], torch.float16)


def test_everything_is_read_when_the_run_ends_in_few_transfers(fake):
    from concept_erasure.erasure.transfer import on_cpu

    sae, counted = sae_of("topk", 1280, torch.float16), []
    for count in (2, 6):
        _, _, eraser, _ = steps(detect(sae), replacement(), MAPS["SD1.5"], torch.float16, count)
        noted = [each for entry in eraser._state.recorder._noted for each in entry.tensors()]
        assert {each.device.type for each in noted} == {"cuda"}
        with Transfers() as transfers:
            moved = on_cpu(noted)
        assert {each.device.type for each in moved} == {"cpu"}
        assert [each.shape for each in moved] == [each.shape for each in noted]
        counted.append((len(noted), transfers.to_cpu))
    (few, first), (many, second) = counted
    assert many > 2 * few and first == second <= 12
