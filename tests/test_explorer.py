"""The Latent Explorer: the pictures say what the activations say."""

import pytest
import torch


@pytest.fixture(scope="module")
def sae(pack):
    from concept_erasure import nodes
    from concept_erasure.nodes import files

    files.register_folder()
    return nodes.SAELoader.execute(files.names()[0]).args[0]


def run(canvas, sae, **changes):
    from concept_erasure.nodes import LatentExplorer

    model, clip, vae = canvas
    inputs = {
        "latents": "",
        "count": 2,
        "prompts": "A tower image in photo style\nA sea image in photo style\n\nA cat image in photo style",
        "steps": 3,
        "cfg": 4.5,
        "sampler_name": "euler",
        "scheduler": "normal",
        "seed": 1,
    }
    size = {"samples": torch.zeros(4, 4, 16, 16)}
    return LatentExplorer.execute(model, clip, vae, sae, size, **{**inputs, **changes}).args


def seen(timesteps, fires):
    """Pictures whose every patch fires latent 3 with a given strength at each step, and latent 5 with 1."""
    from concept_erasure.erasure.capture import FiredLatents
    from concept_erasure.erasure.collecting import Observed

    def call(timestep, strength):
        values = torch.tensor([strength, 1.0]).expand(1, 4, 2).half()
        return FiredLatents(timestep, values, torch.tensor([3, 5]).expand(1, 4, 2).int(), (2, 2))

    fired = [[call(t, s) for t, s in zip(timesteps, strengths, strict=True)] for strengths in fires]
    return Observed(fired, torch.zeros(len(fires), 4, 2, 2))


def test_the_curve_is_the_mean_over_pictures_at_each_step(pack):
    from concept_erasure.erasure.explorer import over_steps

    observed = seen((900.0, 100.0), [(2.0, 0.0), (4.0, 0.0)])
    assert over_steps(observed, 3, 10) == ([100.0, 900.0], [0.0, 3.0])
    assert over_steps(observed, 7, 10) == ([100.0, 900.0], [0.0, 0.0])


def test_the_prompt_that_excites_a_latent_most_comes_first(pack):
    from concept_erasure.erasure.explorer import choose, latent_pictures

    observed = seen((500.0,), [(0.0,), (6.0,), (2.0,)])
    pictures = torch.zeros(3, 8, 8, 3)
    sheets, lines = latent_pictures(observed, pictures, ["a", "b", "c"], [3, 5], {3: "fur"}, 10)
    assert sheets.ndim == 4 and len(sheets) == 2 and 0 <= sheets.min() <= sheets.max() <= 1
    assert lines[0] == "latent 3: fur: most in 'b' (mean 6); in 66.7% of places" and lines[1].startswith("latent 5")
    assert choose(observed, 10, 1) == [5], "only it fires in the first picture"
    assert set(choose(observed, 10, 2)) == {3, 5}


def test_the_strongest_of_a_drawn_set_are_shown_and_seeds_repeat(canvas, sae):
    pictures, summary = run(canvas, sae)
    assert len(pictures) == 2 and len(summary.splitlines()) == 2
    assert run(canvas, sae)[1] == summary


def test_a_concepts_latents_carry_their_names_and_a_picture_of_ones_own_is_shown(canvas, sae):
    from dataclasses import replace

    concept = sae.concept("cat")
    first = concept.latents()[0]
    named = replace(concept, latent_names=((first, "fur"),))
    pictures, summary = run(canvas, sae, concept=named, count=1, image=torch.rand(1, 128, 128, 3))
    assert summary.startswith(f"latent {first}: fur: most in ") and len(pictures) == 1
    assert pictures.shape[2] > run(canvas, sae, latents=str(first))[0].shape[2], "one more picture in the row"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": " \n"}, "input 'prompts' is empty"),
        ({"latents": "99999999"}, "input 'latents': 99999999 is out of range"),
        ({"latents": "fur"}, "input 'latents' must hold whole numbers"),
    ],
)
def test_wrong_inputs(canvas, sae, changes, message):
    with pytest.raises(ValueError, match=f"Latent Explorer: {message}"):
        run(canvas, sae, **changes)
