"""What holds at the edges: one of something, none, exactly the limit, and more dimensions than usual."""

import pytest
import torch
from support.calls import call_of, run_of
from support.sae_formats import write


@pytest.fixture(scope="module")
def sae_of(pack):
    """A maker of small random SAEs by activation."""
    from concept_erasure.sae_models.sae import SAEConfig, SparseAutoencoder

    def made(activation, **more):
        k = {"topk": 3, "topk_sigmoid": 3, "groupmax": 4}.get(activation, 0)
        torch.manual_seed(0)
        sae = SparseAutoencoder(SAEConfig(6, 16, k, "middle_block.1", activation=activation, **more))
        return sae.requires_grad_(False)

    return made


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm"])
@pytest.mark.parametrize("activation", ["topk", "topk_sigmoid", "groupmax", "relu", "jumprelu", "gated"])
def test_patches_of_a_whole_map_are_encoded_like_rows(sae_of, activation, normalize):
    sae, x = sae_of(activation, normalize=normalize), torch.randn(2, 3, 5, 6)
    assert torch.equal(sae.encode_dense(x).flatten(0, 2), sae.encode_dense(x.flatten(0, 2)))
    for each, alone in zip(sae.encode(x), sae.encode(x.flatten(0, 2)), strict=True):
        assert torch.equal(each.flatten(0, 2), alone)


def test_a_feature_at_its_threshold_is_silent(sae_of):
    """As the formats define it: a JumpReLU passes what exceeds the threshold, a gate what exceeds zero."""
    sae = sae_of("jumprelu")
    sae.threshold.fill_(0.5)
    assert sae.activate(torch.tensor([[0.25, 0.5, 0.75] + 13 * [0.0]]))[0, :3].tolist() == [0, 0, 0.75]
    sae = sae_of("gated")
    sae.encoder.bias.fill_(0.25)
    sae.gate_scale.fill_(1.0)
    sae.gate_bias.fill_(-0.5)
    assert sae.activate(torch.tensor([[0.5, 0.75, 1.0] + 13 * [0.0]]))[0, :3].tolist() == [0, 0, 1.0]


def test_one_number_cannot_be_layer_normalised(pack):
    from concept_erasure.sae_models.sae import SAEConfig

    with pytest.raises(ValueError, match="layer-normalised"):
        SAEConfig(1, 4, 1, "middle_block.1", normalize="layer_norm")
    assert SAEConfig(1, 4, 1, "middle_block.1").d_in == 1 and SAEConfig(2, 4, 1, "x", normalize="layer_norm").d_in == 2


@pytest.mark.parametrize("patches", [0, 1, 3])
def test_means_over_few_patches(pack, patches):
    from concept_erasure.sae_models.sparse_codes import mean_activations

    values, indices = torch.full((patches, 2), 0.5).half(), torch.tensor([[1, 3]]).expand(patches, -1).int()
    assert mean_activations(values, indices, 4).tolist() == ([0, 0.5, 0, 0.5] if patches else [0, 0, 0, 0])


class TextEncoder:
    """Encodes a prompt as its length; prompts that begin with a digit encode to another shape."""

    def tokenize(self, prompt):
        return prompt

    def encode_from_tokens_scheduled(self, prompt):
        return [[torch.full((1, 2 if prompt[:1].isdigit() else 1, 4), float(len(prompt))), {}]]


def test_prompts_are_put_together_as_far_as_they_may(pack):
    from concept_erasure.unet.sampling import _batches

    def batches(prompts, most):
        return [(start, count) for start, _, count in _batches(TextEncoder(), prompts, most)]

    assert batches(list("abcdefg"), 3) == [(0, 3), (3, 3), (6, 1)]
    assert batches(list("abcd"), 2) == [(0, 2), (2, 2)]
    assert batches(["a", "b", "1", "2", "c"], 4) == [(0, 2), (2, 2), (4, 1)]


def test_a_range_is_known_to_be_off_only_outside_of_it(pack):
    from concept_erasure.unet.calls import is_active, is_known_off

    off = [is_known_off(is_active(torch.tensor(sigma), (8.0, 2.0))) for sigma in (9.0, 8.0, 5.0, 2.0, 1.0)]
    assert off == [True, False, False, True, True] and not is_known_off(is_active(torch.tensor(9.0), None))


def test_a_part_of_the_run_is_a_range_of_noise(pack):
    run = run_of()
    parts = ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0), (0.25, 0.75))
    assert [run.sigma_range(*part) for part in parts] == [None, (10.0, 5.0), (5.0, 0.0), (7.5, 2.5)]


@pytest.mark.parametrize("name", ["up_blocks.1.attentions.1", "down_blocks.2.attentions.0", "mid_block.attentions.0"])
def test_a_block_is_named_as_the_artist_wrote_it(pack, name):
    from concept_erasure.sae_models.hookpoints import diffusers_name, find, said

    assert said(f"unet.{name}") == name and diffusers_name(find(f"unet.{name}")) == name
    assert said(find(name)) == ""


def test_nothing_is_copied_where_there_is_no_source(pack):
    from concept_erasure.erasure.replacement import draws_for, nearest_sources, random_sources, similar_sources

    mask, pool = torch.ones(1, 6, dtype=torch.bool), torch.zeros(1, 6, dtype=torch.bool)
    own = torch.arange(6)[None]
    assert torch.equal(random_sources(mask, pool, draws_for([0], 6)), own)
    assert torch.equal(nearest_sources(mask, pool, 3), own)
    assert torch.equal(similar_sources(torch.randn(1, 6, 4), mask, pool), own)


def test_an_argument_is_replaced_where_it_was_given(pack):
    from concept_erasure.unet.outer_sample import argument, with_argument

    given = ("sampler", "sigmas", "mask", "callback", True, 7)
    assert [argument(given, {}, name) for name in ("sigmas", "denoise_mask", "seed")] == ["sigmas", "mask", 7]
    assert with_argument(given, {"a": 1}, "denoise_mask", "new") == (
        ("sampler", "sigmas", "new", "callback", True, 7),
        {"a": 1},
    )
    assert with_argument(given[:2], {"a": 1}, "denoise_mask", "new") == (given[:2], {"a": 1, "denoise_mask": "new"})
    assert argument(given[:2], {"denoise_mask": "mask"}, "denoise_mask") == "mask" and argument((), {}, "seed") is None


def test_what_fired_in_a_batch_is_told_apart_by_image(pack):
    from concept_erasure.unet.capture import FiredFeatures
    from concept_erasure.unet.sampling import _split

    calls = [FiredFeatures(t, torch.rand(3, 4, 2), torch.zeros(3, 4, 2).int(), (2, 2)) for t in (900.0, 100.0)]
    parts = _split(calls, 3)
    assert [[(call.timestep, tuple(call.values.shape)) for call in part] for part in parts] == [
        [(900.0, (1, 4, 2)), (100.0, (1, 4, 2))]
    ] * 3
    assert torch.equal(torch.cat([part[1].values for part in parts]), calls[1].values)


def test_statistics_of_an_image_that_was_replaced_beside_one_that_was_not(pack):
    from concept_erasure.erasure.statistics import Statistics

    squares, values = torch.tensor([[1.0, 4.0], [16.0, 64.0]]), torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    source = torch.tensor([[1, 1], [0, 0]], dtype=torch.int32)
    plain, edited = Statistics(squares, values), Statistics(squares, values, source)
    joined = Statistics.joined((plain, edited), (0, 1))
    assert joined.norms.tolist() == [[0.0, 1.0], [2.0, 2.0]] and joined.source.tolist() == [[0, 1], [0, 0]]
    assert Statistics.joined((edited, plain), (0, 1)).norms.tolist() == [[1.0, 1.0], [2.0, 3.0]]
    assert Statistics.joined((plain, plain), (0, 1)).source is None


def test_calls_in_which_a_detector_was_off_do_not_count(pack):
    """Where only the device knows it, such a call is noted with an answer of no."""
    from concept_erasure.erasure.recorder import Recorder

    run = run_of(1, (4, 4))
    recorder, chunk = Recorder(run, None), call_of(run).chunks[1]
    for values, active in (((1, 0, 0, 0), None), ((1, 1, 1, 1), False), ((1, 1, 0, 0), True)):
        answer = None if active is None else torch.tensor(active)
        recorder.found("detector", chunk, torch.tensor([values]).bool(), (1, 2, 2), answer)
    total, calls = recorder._found["detector"]
    assert total.flatten().tolist() == [2, 1, 0, 0] and float(calls) == 2


def test_rows_of_unknown_images_do_not_follow_the_fill_and_it_is_said(pack):
    from dataclasses import replace
    from types import SimpleNamespace

    from concept_erasure.erasure.detection import Detector
    from concept_erasure.erasure.eraser import UNPLACED, Eraser, Task
    from concept_erasure.erasure.evidence import RegionMask
    from concept_erasure.erasure.history import ErasureRecord
    from concept_erasure.erasure.replacement import Replacement

    detector = Detector(SimpleNamespace(config=SimpleNamespace(hookpoint="a")), None, 1.0)
    eraser, run = Eraser(detector, Replacement("none"), ErasureRecord(), ("a",)), run_of(1, (4, 4))
    everywhere = RegionMask(torch.ones(1, 4, 4, dtype=torch.bool))
    eraser.task = Task(everywhere, False, torch.ones(1, 3, 2))
    eraser.begin(run)
    call = call_of(run, size=(4, 4))
    query = torch.zeros(2, 16, 2)

    def attend(call):
        return eraser.on_attention(lambda query, fill: query + 7, query, query + 1, call)

    known = attend(call)
    assert (known[0] == 1).all() and (known[1] == 7).all() and not run.notes[UNPLACED]
    unknown = replace(call, chunks=tuple(replace(chunk, certain=False) for chunk in call.chunks))
    assert (attend(unknown) == 1).all() and run.notes[UNPLACED] == 1


def test_a_configuration_larger_than_any_is_not_read(pack, tmp_path):
    from concept_erasure.sae_models.formats import open_sae
    from concept_erasure.sae_models.formats.native import SAEFileError

    path = write(tmp_path, "saeuron")
    content = (path / "cfg.json").read_bytes()
    (path / "cfg.json").write_bytes(content + b" " * (2**20 - len(content)))
    assert open_sae(path, inside=tmp_path).config.d_in
    (path / "cfg.json").write_bytes(content + b" " * (2**20 + 1 - len(content)))
    with pytest.raises(SAEFileError, match="larger than any configuration"):
        open_sae(path, inside=tmp_path)


def test_a_file_of_too_many_parts_is_not_read(pack, tmp_path, monkeypatch):
    from concept_erasure.sae_models.formats import tensors
    from concept_erasure.sae_models.formats.native import SAEFileError

    monkeypatch.setattr(tensors, "MAX_PARTS", 4)  # the dictionary itself is one
    torch.save({name: torch.zeros(1) for name in "abc"}, tmp_path / "few.pt")
    torch.save({name: torch.zeros(1) for name in "abcd"}, tmp_path / "many.pt")
    assert set(tensors.TensorFile(tmp_path / "few.pt").shapes) == set("abc")
    with pytest.raises(SAEFileError, match="too many parts"):
        tensors.TensorFile(tmp_path / "many.pt")


def test_the_nearest_source_is_found_in_any_row(pack):
    from concept_erasure.erasure.replacement import nearest_sources

    mask, pool = torch.zeros(1, 24, dtype=torch.bool), torch.zeros(1, 24, dtype=torch.bool)
    mask[0, [4, 9, 14, 19]], pool[0, [2, 7, 21]] = True, True
    assert nearest_sources(mask, pool, 4)[0, [4, 9, 14, 19]].tolist() == [2, 2, 7, 21]
    assert nearest_sources(mask, pool, 6)[0, [4, 9, 14, 19]].tolist() == [2, 2, 7, 7]


def test_images_in_which_the_concept_is_still_found_are_counted_from_one(pack):
    from concept_erasure.erasure.record import RunRecord

    def left(*remaining):
        return RunRecord(1, None, tuple(range(len(remaining))), (8, 8), remaining=remaining).leftovers()

    assert left(False, False) == [] and left(True, False) == ["The concept is still found in image 1 of 2."]
    assert left(False, True, True, False) == ["The concept is still found in image 2 and 3 of 4."]


@pytest.mark.parametrize(
    ("area", "rows", "columns"),
    [
        (None, (0, 4), (0, 12)),
        ((4, 8, 0, 0), (0, 2), (0, 4)),
        ((4, 8, 4, 16), (2, 4), (8, 12)),
        ((1, 1, 7, 23), (3, 4), (11, 12)),
    ],
)
def test_an_area_lies_where_it_is_in_an_image_that_is_not_square(pack, area, rows, columns):
    from types import SimpleNamespace

    from concept_erasure.erasure.evidence import _place

    taken = _place(SimpleNamespace(area=area), (8, 24), (4, 12))
    assert [range(n)[part] for n, part in zip((4, 12), taken, strict=True)] == [range(*rows), range(*columns)]


def test_the_part_that_a_conditioning_asks_for(pack):
    from concept_erasure.unet.attribution import _area

    size = (16, 24)
    assert _area({}, size) == (16, 24, 0, 0) and _area({"area": ("percentage", 1, 1, 0, 0)}, size) == (16, 24, 0, 0)
    assert _area({"area": (8, 6, 2, 4)}, size) == (8, 6, 2, 4) and _area({"area": (8, 6, 12, 20)}, size) == (
        4,
        4,
        12,
        20,
    )
    assert _area({"area": (1, 8, 6, 0, 2, 4)}, size) == (8, 6, 2, 4)


def test_concepts_that_were_not_found_are_named_too(pack):
    from concept_erasure.erasure.record import RunRecord

    def said(**shares):
        concepts = {name: torch.tensor([[[share, 0.0]]]) for name, share in shares.items()}
        return RunRecord(1, None, (0,), (8, 8), concepts=concepts).found_each()

    assert said(cat=0.0) == "", "of one concept the rest of the sentence tells it"
    assert said(cat=0.0, dog=0.5, tree=0.0) == " Found in patches at some step: dog in 50.0%. Not found: cat, tree."
    assert said(cat=0.5, dog=0.2) == " Found in patches at some step: cat in 50.0%, dog in 50.0%."
    assert said(cat=0.0, dog=0.0) == " Not found: cat, dog."


def test_answers_are_gathered_on_the_grid_with_most_patches(pack):
    from concept_erasure.erasure.evidence import Evidence

    evidence, run = Evidence(), run_of(1, (8, 8))
    for step, grid in ((1, (2, 3)), (2, (4, 2))):
        call = call_of(run, step=step, roles=("positive",))
        evidence.note(call.chunks[0], call, torch.ones(1, *grid, dtype=torch.bool), torch.ones(1, *grid), None)
    seen = evidence.gather(1, (8, 8))
    assert seen.mask.shape == (2, 1, 4, 2) and seen.mask.all()


def test_the_callback_sees_last_what_the_latest_pass_and_the_result_gave(pack):
    from concept_erasure.unet.progress import PassProgress

    told = []
    progress = PassProgress(lambda step, predicted, latents, steps: told.append((step, float(predicted), steps)))
    for number in range(2):
        progress.begin(number)(3, torch.tensor(float(number)), torch.zeros(()), 4)
    assert told == [(3, 0.0, 8), (7, 1.0, 8)]
    progress.conclude(lambda predicted: predicted[1])
    assert len(told) == 2, "it saw that already"
    progress.conclude(lambda predicted: sum(predicted) + 5.0)
    assert told[2:] == [(7, 6.0, 8)]


def test_what_fires_for_all_concepts_alike_scores_nothing(pack):
    """Each feature's share of what fires for a concept, less its share of what fires for the others, in each band."""
    from concept_erasure.sae_models.scoring import score_features

    means = torch.tensor([[[1.0, 3.0], [2.0, 0.0]], [[10.0, 30.0], [0.0, 5.0]]])
    assert torch.allclose(score_features(means, 0), torch.tensor([[0.0, 0.0], [1.0, -1.0]]), atol=1e-5)


def test_a_value_that_is_too_large_for_a_precision_is_refused(sae_of, tmp_path):
    from concept_erasure.sae_models.formats import open_sae
    from concept_erasure.sae_models.formats.native import SAEFileError, save

    sae = sae_of("relu")
    sae.encoder.weight[0, 0] = 1e6
    save(tmp_path / "large.safetensors", sae, dtype=None)
    file = open_sae(tmp_path / "large.safetensors")
    assert file.load().encoder.weight[0, 0] == 1e6
    with pytest.raises(SAEFileError, match=r"encoder.weight, as torch\.float16,"):
        file.load(dtype=torch.float16)


def test_a_patch_of_equal_values_is_normalised_without_a_change_of_sign(sae_of):
    sae = sae_of("relu", normalize="layer_norm")
    assert (sae.scale(torch.full((2, 6), 3.0)) > 0).all()


def test_an_sae_without_k_has_none(pack, tmp_path):
    from concept_erasure.sae_models.formats import open_sae

    assert open_sae(write(tmp_path, "overcomplete plain")).config.k == 0


def test_a_top_k_says_that_it_is_one(pack, tmp_path):
    """Overcomplete's configuration may hold the number alone."""
    import json

    from concept_erasure.sae_models.formats import open_sae
    from concept_erasure.sae_models.formats.native import SAEFileError

    path = write(tmp_path, "overcomplete topk")
    (path / "config.json").write_text(json.dumps({"top_k": 4}))
    assert (open_sae(path).config.activation, open_sae(path).config.k) == ("topk", 4)
    (path / "config.json").write_text(json.dumps({"note": "nothing"}))
    with pytest.raises(SAEFileError, match="which kind of SAE"):
        open_sae(path)


def test_the_converter_replaces_a_file_if_told_to(pack, tmp_path):
    from concept_erasure.sae_models.formats import open_sae
    from concept_erasure.sae_models.formats.convert import main

    source, target = write(tmp_path, "saeuron"), tmp_path / "x.safetensors"
    target.write_bytes(b"something else")
    with pytest.raises(SystemExit, match="--overwrite"):
        main([str(source), str(target)])
    main([str(source), str(target), "--overwrite"])
    assert open_sae(target).config == open_sae(source).config


@pytest.mark.parametrize("names", [("collections", 1), (1, "OrderedDict"), (1, 1)])
def test_a_name_that_is_no_text_is_refused(pack, names):
    import io
    import pickle

    from concept_erasure.sae_models.formats.inert_pickles import PickleRefused, read_pickle

    parts = b"".join(pickle.dumps(each, protocol=2)[2:-1] for each in names)
    content = b"\x80\x04" + parts + b"\x93."
    with pytest.raises(PickleRefused, match="it would run something"):
        read_pickle(io.BytesIO(content), len(content), ("collections.1", "1.OrderedDict", "1.1"))
