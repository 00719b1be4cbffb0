"""Finding a concept: from made-up activations with a known answer, and from one word on the shipped model."""

from dataclasses import dataclass

import pytest
import torch
from support.demo_model import GRID, SMALL, latents
from support.scenes import patches_of_scenes

L, PATCHES, K = 200, 16, 6


@dataclass
class Call:
    """One picture in one call, as ``unet.capture`` gives it."""

    timestep: float
    values: torch.Tensor
    indices: torch.Tensor


def made_up(pictures=60, inside=20, strength=3.0, seed=0, parts=((7, 8, 9),)):
    """Pictures whose patches fire K latents: noise, and in a quarter of a concept's patches one of its parts."""
    draw = torch.Generator().manual_seed(seed)
    shown = []
    for number in range(pictures):
        calls = []
        for call, timestep in enumerate((900.0, 500.0, 100.0)):
            indices = torch.stack([10 + torch.randperm(L - 10, generator=draw)[:K] for _ in range(PATCHES)])
            values = torch.rand(PATCHES, K, generator=draw)
            if number < inside:
                own = parts[call % len(parts)]
                for patch in range(PATCHES // 4):
                    indices[patch, 0], values[patch, 0] = own[patch % len(own)], strength
            calls.append(Call(timestep, values[None].half(), indices[None].int()))
        shown.append(calls)
    return shown, (torch.arange(pictures) < inside)[:, None].float(), torch.arange(pictures) % 2 == 1


def find(shown, cover, held, **options):
    from concept_erasure.finding.fitting import find_concept
    from concept_erasure.finding.labelling import Labels
    from concept_erasure.sae_models.identity import SAEIdentity

    return find_concept("thing", SAEIdentity("x", "0" * 64), L, shown, Labels(cover, held), **{"bands": 3, **options})


def test_the_parts_of_a_concept_are_found_and_nothing_else(pack):
    from concept_erasure.sae_models.scoring import band_score
    from concept_erasure.sae_models.sparse_codes import dense

    shown, cover, held = made_up()
    finding = find(shown, cover, held)
    assert not finding.warning and all(found.auc > 0.95 for found in finding.found)
    for band in finding.concept.bands:
        assert {7, 8, 9} <= set(band.features) and set(band.features[:3]) == {7, 8, 9}
        detected = []
        for calls in shown:
            latents = dense(calls[0].values[0], calls[0].indices[0], torch.tensor(band.features), L)
            detected.append(band_score(latents, band, "sum") > 1)
        found = torch.stack(detected)
        assert found[:20, : PATCHES // 4].float().mean() > 0.95
        assert found[20:].float().mean() < 0.08 and found[:20, PATCHES // 4 :].float().mean() < 0.08


def test_steps_that_can_tell_say_where_it_is_in_those_that_cannot(pack, monkeypatch):
    from concept_erasure.finding import fitting
    from concept_erasure.finding.labelling import UNKNOWN, Labels, located

    shown, cover, held = made_up(strength=1.5)
    # With much noise a patch of the concept shows nothing of it, and what it stands on, latent 5, shows more often.
    for number, calls in enumerate(shown):
        if number < 20:
            calls[0].values[0, PATCHES // 4 - 1, 0] = 0
        if number < 20 or number % 4 == 0:
            calls[0].indices[0, PATCHES // 2 :, 0] = 5
            calls[0].values[0, PATCHES // 2 :, 0] = 1.5
    places = located(shown, Labels(cover, held), find(shown, cover, held).concept, L)
    assert (places.cover[:20, : PATCHES // 4] == 1).float().mean() > 0.9
    assert (places.cover[:20, PATCHES // 4 :] == UNKNOWN).float().mean() > 0.9
    assert (places.cover[20:] == 0).all() and places.held is held

    refined = find(shown, cover, held).concept.bands[-1]
    monkeypatch.setattr(fitting, "REFITS", 0)
    by_pictures = find(shown, cover, held).concept.bands[-1]
    assert by_pictures.features[0] == 5, "the background tells pictures apart"
    assert set(refined.features[:3]) == {7, 8, 9} and 5 not in refined.features


def test_more_images_teach_what_the_masked_ones_do_not_show(pack, monkeypatch):
    """From a mask to looks that share nothing with it: each image shows one look in one call and the next in others."""
    from concept_erasure.finding import fitting
    from concept_erasure.finding.labelling import UNKNOWN, Labels
    from concept_erasure.sae_models.identity import SAEIdentity
    from concept_erasure.sae_models.scoring import band_score
    from concept_erasure.sae_models.sparse_codes import dense

    masked, free, sought = 8, 40, 40
    shown, _, _ = made_up(masked + free + sought, 0)
    cover = torch.zeros(len(shown), PATCHES)
    cover[:masked, : PATCHES // 4], cover[-sought:] = 1, UNKNOWN
    for number, calls in enumerate(shown):
        looks = (7, 7, 7) if number < masked else (7, 8, 8) if number % 4 < 2 else (8, 9, 9)
        for call, look in zip(calls, looks if cover[number, 0] else (), strict=False):
            call.indices[0, : PATCHES // 4, 0], call.values[0, : PATCHES // 4, 0] = look, 3.0

    def found(is_sought):
        labels = Labels(cover, torch.arange(len(shown)) % 2 == 1, is_sought)
        band = fitting.find_concept("thing", SAEIdentity("x", "0" * 64), L, shown, labels, 1).concept.bands[0]
        seen = [dense(call.values[0], call.indices[0], torch.tensor(band.features), L) for call in shown[-1]]
        hit = torch.stack([band_score(each, band, "sum") > 1 for each in seen])
        return set(band.features), hit[:, : PATCHES // 4].float().mean(), hit[:, PATCHES // 4 :].float().mean()

    further = torch.arange(len(shown)) >= masked + free
    features, inside, outside = found(further)
    assert {7, 8, 9} <= features and inside > 0.9 and outside < 0.1
    assert not {8, 9} & found(torch.zeros_like(further))[0], "the mask alone shows only the first look"
    monkeypatch.setattr(fitting, "MASKED_REFITS", 1)
    features, inside, _ = found(further)
    assert 8 in features and 9 not in features and inside < 0.5, "the last look is two steps away"


def test_nothing_is_located_by_a_concept_that_finds_nothing(pack):
    from concept_erasure.finding.labelling import Labels, located

    shown, cover, held = made_up(strength=0.0)
    assert located(shown, Labels(cover, held), find(shown, cover, held).concept, L) is None


def test_each_band_gets_latents_of_its_own(pack):
    finding = find(*made_up(parts=((1, 2), (3, 4), (5, 6))))
    assert finding.concept.band_edges[1:-1] == (300.0, 700.0)
    assert [set(band.features[:2]) for band in finding.concept.bands] == [{5, 6}, {3, 4}, {1, 2}]


def test_a_concept_that_no_latent_shows_is_said_to_be_missing(pack):
    finding = find(*made_up(inside=20, strength=0.0))
    assert "WARNING: no feature of this SAE tells 'thing' apart" in finding.summary()
    assert finding.concept.features() == [] and finding.concept.band_edges[-1] == 1000.0


def test_a_concept_that_is_missing_in_some_steps_is_named(pack):
    shown, cover, held = made_up()
    noise = made_up(strength=0.0, seed=1)[0]
    mixed = [[other[0], *calls[1:]] for calls, other in zip(shown, noise, strict=True)]
    finding = find(mixed, cover, held)
    assert "not told apart at timesteps 700-1000" in finding.warning
    assert [bool(band.features) for band in finding.concept.bands] == [True, True, False]


def test_what_few_pictures_show_must_be_clearer(pack):
    few, many = find(*made_up(12, 4)), find(*made_up(60, 20))
    assert few.found[0].needed > many.found[0].needed >= 0.75


def test_the_papers_rule(pack):
    shown, cover, held = made_up()
    finding = find(shown, cover, held, way="percentile (paper)", percentile=99.0, others=4)
    band = finding.concept.bands[0]
    assert finding.concept.combine == "any" and len(band.features) == 2 and set(band.features) <= {7, 8, 9}
    means = torch.zeros(2, L)
    for number in (i for i in range(60) if not held[i]):
        call = shown[number][2]
        means[int(number >= 20)].index_add_(0, call.indices.flatten().long(), call.values.flatten().float())
    means /= torch.tensor([[10 * PATCHES], [20 * PATCHES]])
    expected = [(means[0, i] + 4 * means[1, i]) / 5 for i in band.features]
    assert band.thresholds == pytest.approx([float(value) for value in expected], rel=1e-3)


def test_bands_follow_the_steps_that_are_taken(pack):
    from concept_erasure.finding.labelling import band_edges

    assert band_edges([999.0], 5) == (0.0, 1000.0)
    assert band_edges([999.0, 500.0], 5) == (0.0, 749.5, 1000.0)
    assert band_edges([900, 100, 80, 60, 40, 20], 3) == (0.0, 50.0, 90.0, 1000.0)


@pytest.mark.parametrize(
    ("shown", "word", "parts"),
    [
        ("a cat and a dog", "cat", ("a cat", "a dog")),
        ("A dog, two cats, and a tree", "cat", ("two cats", "A dog and a tree")),
        ("a red car on a street", "red car", ("a red car", "on a street")),
        ("the cat", "Cat", ("the cat", "")),
        ("a category of dogs", "cat", ("", "")),
        ("a dog", "", ("", "")),
    ],
)
def test_what_a_image_description_beside_a_concept(pack, shown, word, parts):
    from concept_erasure.finding.prompts import parted

    assert parted(shown, word) == parts


def test_prompts_around_a_painted_picture(pack):
    from concept_erasure.finding.prompts import FORM, STYLES, around, default_prompts

    without, alike = around("cat", "a cat and a \n dog", "")
    common = default_prompts("cat", "object")[1]
    assert alike == [FORM.format(thing, style) for thing in ("a cat", "a cat and a dog") for style in STYLES]
    assert around("cat", "the cat", "A sea") == (["A sea"], [FORM.format("the cat", style) for style in STYLES])
    assert without[:6] == [*common[:2], FORM.format("a dog", STYLES[0]), *common[2:4], FORM.format("a dog", STYLES[1])]
    assert around("cat", "", "A sea\n\nA tree") == (["A sea", "A tree"], [])
    unnamed = [FORM.format("a cat and a dog", style) for style in STYLES]
    assert around("it", "a cat and a dog", "A sea") == (["A sea"], unnamed), "what is painted over is not named"


def test_prompts_share_styles_and_leave_the_concept_out(pack):
    from concept_erasure.demo_model import vocabulary
    from concept_erasure.finding.prompts import OBJECTS, STYLES, default_prompts

    assert set(vocabulary.OBJECTS) <= set(OBJECTS) and set(vocabulary.STYLES) <= set(STYLES)
    targets, contrasts = default_prompts("cats", "object")
    assert len(targets) == 8 and len(set(contrasts)) == len(contrasts) == 19 * 8
    assert all("cats" in prompt for prompt in targets) and not any("cat " in prompt for prompt in contrasts)
    for one, other in zip(targets, contrasts, strict=False):
        assert one.split(" in ")[1] == other.split(" in ")[1]
    targets, contrasts = default_prompts("sketch", "style")
    assert all("in sketch style" in prompt for prompt in targets) and not any("sketch" in p for p in contrasts)
    assert not any("butterfly" in prompt for prompt in default_prompts("butterflies", "object")[1])


class TestOnTheShippedModel:
    """One small search; what it finds is compared with the shipped dictionary."""

    @staticmethod
    def run(canvas, sae, size=(GRID, GRID), **changes):
        from concept_erasure.nodes import ConceptFinder

        model, clip, vae = canvas
        inputs = {
            "word": "sandwich",
            "kind": "object",
            "target_prompts": "",
            "contrast_prompts": "",
            "images": 12,
            "steps": 6,
            "cfg": 4.5,
            "sampler_name": "euler",
            "scheduler": "normal",
            "seed": 2,
            "timestep_bands": 2,
            "select": "held-out detection",
            "percentile": 99.99,
        }
        return ConceptFinder.execute(
            model, clip, vae, sae, {"samples": latents(12, size)}, **{**inputs, **changes}
        ).args

    @pytest.fixture(scope="class")
    def found(self, canvas, sae):
        with torch.inference_mode():  # as ComfyUI runs nodes
            return self.run(canvas, sae)

    def test_one_word_gives_a_concept(self, found, sae):
        concept, report, summary = found
        assert concept.name == "sandwich" and concept.sae == sae.identity and len(concept.bands) == 2
        assert "WARNING" not in summary and "AUC" in summary
        assert report.ndim == 4 and report.shape[-1] == 3 and 0 <= report.min() <= report.max() <= 1

    def test_it_finds_the_places_nearly_as_well_as_the_shipped_one(self, found, sae, canvas):
        from concept_erasure.sae_models.scoring import band_score, roc_auc

        x, there, frog = patches_of_scenes(canvas, sae.config.hookpoint, ("sandwich", "frog"), 30)
        dense = sae.module.encode_dense(x)
        auc = []
        for concept in (found[0], sae.concept("sandwich")):
            band = concept.bands[concept.band_index(300.0)]
            score = band_score(dense[:, list(band.features)], band, concept.combine)
            auc.append((roc_auc(score[there], score[~there]), roc_auc(score[there], score[frog & ~there])))
        (anywhere, on_frogs), (shipped_anywhere, shipped_on_frogs) = auc
        assert anywhere > 0.9 and anywhere > shipped_anywhere - 0.05
        assert on_frogs > shipped_on_frogs - 0.1, "what is taken for it most often"

    def test_what_the_pictures_do_not_show_is_reported(self, canvas, sae):
        """The model reads "cats" as "cat", so that nothing but the noise differs."""
        prompts = {
            f"{kind}_prompts": "\n".join(f"An image of {word} in {style} style" for style in ("photo", "neon"))
            for kind, word in (("target", "cat"), ("contrast", "cats"))
        }
        concept, _, summary = self.run(canvas, sae, SMALL, **prompts, steps=4, timestep_bands=1)
        assert summary.startswith("WARNING: no feature") and concept.features() == []

    def test_whoever_asks_for_a_style_is_told_that_it_cannot_be_erased(self, canvas, sae):
        asked = {"word": "mosaic", "kind": "style", "images": 4, "steps": 2, "timestep_bands": 1}
        summaries = [self.run(canvas, sae, SMALL, **{**asked, **more})[2] for more in ({}, {"kind": "object"})]
        assert ["a style is in every patch" in summary for summary in summaries] == [True, False]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"word": "  "}, "input 'word'"),
            ({"target_prompts": "a cat\n", "contrast_prompts": "a dog\na cat"}, "'a cat' is in both"),
        ],
    )
    def test_wrong_inputs(self, canvas, sae, changes, message):
        with pytest.raises(ValueError, match=f"Concept Finder: .*{message}"):
            self.run(canvas, sae, **changes)

    def test_the_model_is_left_as_it_was(self, canvas, found):
        assert not canvas[0].wrappers.get("outer_sample")
