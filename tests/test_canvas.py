"""The small world: scenes, tokenizer, checkpoint and judges."""

import logging

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def scenes(pack):
    from concept_erasure.canvas import scenes

    return scenes


def test_scenes_depend_on_the_seed_alone(scenes):
    one, two, other = scenes.render(20_000_001), scenes.render(20_000_001), scenes.render(20_000_002)
    assert np.array_equal(one.image, two.image) and one.caption == two.caption
    assert not np.array_equal(one.image, other.image)
    assert one.image.shape == (128, 128, 3) and one.image.dtype == np.uint8


def test_masks_say_where_the_object_is(scenes):
    """The picture differs from the same scene without the object only where the mask says so."""
    for seed in range(20_000_010, 20_000_016):
        scene = scenes.render(seed, objects=("cat", "tree"), style="photo")
        assert set(scene.masks) == {"cat", "tree"}
        for mask in scene.masks.values():
            assert mask.shape == (16, 16) and mask.min() >= 0 and mask.max() <= 1
            assert 0.02 < (mask > 0.5).mean() < 0.6


def test_seed_ranges_do_not_overlap(scenes):
    from concept_erasure.canvas import sampling

    for ranges in (
        (scenes.TRAIN, scenes.VALIDATION, scenes.HELD_OUT),
        (sampling.SAE_SEEDS, sampling.TUNING_SEEDS, sampling.REPORTING_SEEDS),
    ):
        for first, second in zip(ranges, ranges[1:], strict=False):
            assert first.stop <= second.start


def test_unknown_words_are_named_once(canvas, caplog):
    clip = canvas[1]
    with caplog.at_level(logging.WARNING):
        clip.tokenize("A purple cat image in photo style")
        clip.tokenize("A purple cat image in photo style")
    messages = [record.getMessage() for record in caplog.records if "does not know" in record.getMessage()]
    assert len(messages) == 1 and "purple" in messages[0] and "watercolor" in messages[0]
    assert torch.equal(
        clip.encode_from_tokens(clip.tokenize("A purple cat")), clip.encode_from_tokens(clip.tokenize("a cat"))
    )


@pytest.mark.parametrize(("written", "meant"), [("Cats", "cat"), ("Sandwiches", "sandwich"), ("Fishes", "fish")])
def test_other_spellings(canvas, written, meant):
    clip = canvas[1]
    assert clip.tokenize(written) == clip.tokenize(meant)


def test_weights_in_prompts_and_long_prompts(canvas):
    clip = canvas[1]
    plain, strong = (clip.encode_from_tokens(clip.tokenize(text)) for text in ("a cat", "a (cat:1.3)"))
    assert plain.shape == strong.shape and not torch.equal(plain, strong)
    long = clip.encode_from_tokens(clip.tokenize("a cat and a dog and " * 8))
    assert long.shape[1] % 16 == 0 and long.shape[1] > 16


def test_vae_round_trip(canvas, scenes):
    images = torch.from_numpy(np.stack([scenes.render(s).image for s in range(20_000_100, 20_000_132)])).float() / 255
    vae = canvas[2]
    latents = vae.encode(images)
    assert latents.shape == (32, 4, 16, 16) and 0.7 < latents.std() < 1.3
    error = (vae.decode(latents) - images).pow(2).mean()
    assert -10 * torch.log10(error) > 24


@pytest.mark.parametrize("size", [(16, 16), (16, 24), (24, 16)])
def test_any_batch_and_size(canvas, size):
    import comfy.sample
    from concept_erasure.canvas.sampling import encode, starting_noise

    model, clip, vae = canvas
    noise = starting_noise(range(3), size)
    prompts = ["A cat image in photo style", "A tree", ""]
    latents = comfy.sample.sample(
        model, noise, 2, 4.5, "euler", "normal", encode(clip, prompts), encode(clip, [""] * 3),
        torch.zeros_like(noise), disable_pbar=True,
    )  # fmt: skip
    assert vae.decode(latents).shape == (3, size[0] * 8, size[1] * 8, 3)


def test_judges_on_held_out_scenes(pack, scenes):
    from concept_erasure.canvas import classifiers
    from concept_erasure.canvas.vocabulary import OBJECTS, STYLES

    judge = classifiers.load()
    rendered = [scenes.render(seed) for seed in range(25_000_000, 25_000_300)]
    found, styles = judge.classify(torch.from_numpy(np.stack([s.image for s in rendered])).float() / 255)
    truth = torch.tensor([[name in s.objects for name in OBJECTS] for s in rendered])
    assert ((found > judge.threshold) == truth).float().mean() > 0.98
    assert (styles.argmax(1) == torch.tensor([STYLES.index(s.style) for s in rendered])).float().mean() > 0.97


def test_the_model_draws_what_is_asked(canvas):
    """A small sample; docs/canvas.md has the real figures."""
    from concept_erasure.canvas import classifiers
    from concept_erasure.canvas.sampling import generate
    from concept_erasure.canvas.vocabulary import OBJECTS, caption

    names = OBJECTS[::2]
    pictures = generate(*canvas, [caption((name,), "photo") for name in names], range(len(names)))
    found, _ = classifiers.load().classify(pictures)
    assert sum(float(found[i, OBJECTS.index(name)]) > 0.5 for i, name in enumerate(names)) >= len(names) - 2


@pytest.mark.parametrize("content", [b"", b"hello", None, "cut"])
def test_a_damaged_checkpoint_says_what_to_do(pack, tmp_path, content):
    from concept_erasure.canvas import checkpoint

    path = tmp_path / "canvas.safetensors"
    if content == "cut":
        path.write_bytes(checkpoint.DEFAULT_PATH.read_bytes()[:100_000])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match="Canvas Checkpoint: .*Install the pack again"):
        checkpoint.load(path)
