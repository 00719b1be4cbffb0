"""The Feature Explorer: the pictures say what the activations say."""

import pytest
import torch
from support.demo_model import SMALL, SMALL_SIDE, latents


def run(canvas, sae, **changes):
    from concept_erasure.nodes import FeatureExplorer

    model, clip, vae = canvas
    inputs = {
        "features": "",
        "count": 2,
        "prompts": "A tower image in photo style\nA sea image in photo style\n\nA cat image in photo style",
        "steps": 3,
        "cfg": 4.5,
        "sampler_name": "euler",
        "scheduler": "normal",
        "seed": 1,
    }
    size = {"samples": latents(4)}
    return FeatureExplorer.execute(model, clip, vae, sae, size, **{**inputs, **changes}).args


def examples(timesteps, fires, drawn=True):
    """Pictures a, b, c, ... whose every patch fires latent 3 with given strengths at the steps, and latent 5 with 1."""
    from concept_erasure.finding.examples import Example
    from concept_erasure.unet.capture import FiredFeatures

    def call(timestep, strength):
        values = torch.tensor([strength, 1.0]).expand(1, 4, 2).half()
        return FiredFeatures(timestep, values, torch.tensor([3, 5]).expand(1, 4, 2).int(), (2, 2))

    return [
        Example(torch.zeros(8, 8, 3), [call(t, s) for t, s in zip(timesteps, strengths, strict=True)], name, drawn)
        for name, strengths in zip("abcdef", fires, strict=False)
    ]


def test_the_curve_is_the_mean_over_pictures_at_each_step(pack):
    from concept_erasure.reports.explorer import over_steps

    drawn = examples((900.0, 100.0), [(2.0, 0.0), (4.0, 0.0)])
    assert over_steps(drawn, 3, 10) == ([100.0, 900.0], [0.0, 3.0])
    assert over_steps(drawn, 7, 10) == ([100.0, 900.0], [0.0, 0.0])
    noised = examples((500.0,), [(8.0,)], drawn=False)
    assert over_steps(drawn + noised, 3, 10) == ([100.0, 900.0], [0.0, 3.0]), "noised ones are not on its steps"
    assert over_steps(noised, 3, 10) == ([500.0], [8.0])


def test_the_picture_that_excites_a_latent_most_comes_first(pack):
    from concept_erasure.finding.examples import strongest_in
    from concept_erasure.reports.explorer import feature_sheets

    tried = examples((500.0,), [(0.0,), (6.0,), (2.0,)])
    sheets, lines = feature_sheets(tried, [3, 5], {3: "fur"}, 10)
    assert sheets.ndim == 4 and len(sheets) == 2 and 0 <= sheets.min() <= sheets.max() <= 1
    assert lines[0] == "feature 3: fur: most in 'b' (mean 6); in 66.7% of the patches" and lines[1].startswith(
        "feature 5"
    )
    assert strongest_in(tried, 10, 1) == [5], "only it fires in the first picture"
    assert set(strongest_in(tried, 10, 2)) == {3, 5}


@pytest.fixture
def pets(canvas, tmp_path, monkeypatch):
    """A folder of the input folder: a cat and a tower as the model draws them, wider than high, and the cat's text."""
    import folder_paths
    from concept_erasure.dev.demo_model.sampling import generate
    from PIL import Image

    (tmp_path / "pets").mkdir()
    drawn = generate(*canvas, ["A cat image in photo style", "A tower image in photo style"], [1, 2], size=SMALL)
    for name, picture in zip(("one.png", "two.png"), drawn, strict=True):
        wide = Image.new("RGB", (SMALL_SIDE * 3 // 2, SMALL_SIDE))
        wide.paste(Image.fromarray((picture * 255).byte().numpy()), (SMALL_SIDE // 4, 0))
        wide.save(tmp_path / "pets" / name)
    (tmp_path / "pets" / "one.txt").write_text("A cat image in photo style")
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    return tmp_path / "pets"


def most_exciting(summary):
    return [line.split("most in '")[1].split("'")[0] for line in summary.splitlines()]


def test_the_picture_of_a_folder_that_shows_a_concept_excites_its_latents_most(canvas, sae, pets):
    for name, file in (("cat", "one.png"), ("tower", "two.png")):
        concept = sae.concept(name)
        band = concept.bands[1]
        best = min(zip(band.thresholds, band.features, strict=True))[1]  # weighs most
        _, summary = run(canvas, sae, prompts="", features=str(best), image_folder="pets")
        assert most_exciting(summary) == [file]


def test_a_folder_is_looked_at_beside_prompts_and_only_as_much_of_it_as_wanted(canvas, sae, pets):
    pictures, both = run(canvas, sae, image_folder="pets")
    assert len(pictures) == 2 and run(canvas, sae, image_folder="pets")[1] == both
    assert both != run(canvas, sae)[1], "the folder's pictures count"
    _, one = run(canvas, sae, prompts="", image_folder="pets", folder_images=1, count=4)
    assert set(most_exciting(one)) == {"one.png"}


def test_a_caption_is_what_the_model_is_told(canvas, sae, pets):
    with_caption = run(canvas, sae, prompts="", image_folder="pets", folder_images=1)[1]
    (pets / "one.txt").unlink()
    assert run(canvas, sae, prompts="", image_folder="pets", folder_images=1)[1] != with_caption


def test_the_node_runs_again_when_a_folder_has_changed(pack, pets):
    from concept_erasure.nodes import FeatureExplorer

    before = FeatureExplorer.fingerprint_inputs(image_folder="pets")
    (pets / "two.png").unlink()
    assert FeatureExplorer.fingerprint_inputs(image_folder="pets") != before
    assert "pets" in next(each.options for each in FeatureExplorer.define_schema().inputs if each.id == "image_folder")


def test_the_strongest_of_a_drawn_set_are_shown_and_seeds_repeat(canvas, sae):
    pictures, summary = run(canvas, sae)
    assert len(pictures) == 2 and len(summary.splitlines()) == 2
    assert run(canvas, sae)[1] == summary


def test_a_concepts_latents_carry_their_names_and_a_picture_of_ones_own_is_shown(canvas, sae):
    from dataclasses import replace

    from concept_erasure.sae_models.scoring import strongest_features

    concept = sae.concept("cat")
    first = strongest_features(concept, 1)[0][0]
    named = replace(concept, feature_names=((first, "fur"),))
    pictures, summary = run(canvas, sae, concept=named, count=1, image=torch.rand(1, SMALL_SIDE, SMALL_SIDE, 3))
    assert summary.startswith(f"feature {first}: fur: most in ") and len(pictures) == 1
    assert pictures.shape[2] > run(canvas, sae, features=str(first))[0].shape[2], "one more picture in the row"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": " \n"}, "input 'prompts' is empty"),
        ({"image_folder": "../pets"}, "there is no folder '../pets' with images \\(input 'image_folder'\\)"),
        ({"features": "99999999"}, "input 'features': 99999999 is out of range"),
        ({"features": "fur"}, "input 'features' must hold whole numbers"),
    ],
)
def test_wrong_inputs(canvas, sae, changes, message):
    with pytest.raises(ValueError, match=f"Feature Explorer: {message}"):
        run(canvas, sae, **changes)
