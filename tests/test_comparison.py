"""The comparison: what is asked for, how it is counted, and that each method is what it says."""

import sys

import numpy as np
import pytest
import torch
from support.calls import call_of, detector, run_of
from support.demo_model import FACTOR, GRID

STILL = "An image of a cat in photo style"


@pytest.fixture(scope="module")
def bench(pack):
    from concept_erasure.benchmarks.comparison.methods import Bench

    return Bench()


@pytest.fixture(scope="module")
def job(pack):
    from concept_erasure.benchmarks.comparison.jobs import Job
    from concept_erasure.benchmarks.framework.prompts import Plan

    return Job("tuning", "plain", "cat", 1, Plan(6, 4, 3))


@pytest.fixture(scope="module")
def prompts(bench, job):
    return job.prompts[:3]


@pytest.fixture(scope="module")
def unedited(bench, prompts):
    return made_by(bench, "plain", prompts)


def made_by(bench, method, prompts):
    return bench.vae.decode(bench.way(method, "cat")(prompts)[0])


def seeds_of(job):
    return [prompt.seed for prompt in job.prompts]


def test_a_job_asks_for_the_target_then_others_then_pairs(pack, job):
    made = job.prompts
    assert [prompt.objects == ("cat",) for prompt in made] == [True] * 6 + [False] * 7
    assert not any("cat" in prompt.objects for prompt in made[6:10])
    assert all("cat" in prompt.objects and len(set(prompt.objects)) == 2 for prompt in made[10:])


def test_no_seed_is_used_twice_and_none_in_both_splits(pack, job):
    from dataclasses import replace

    from concept_erasure.demo_model.vocabulary import OBJECTS

    every = [
        seed
        for split in ("tuning", "reporting")
        for target in OBJECTS
        for turn in range(3)
        for seed in seeds_of(replace(job, split=split, target=target, turn=turn))
    ]
    assert len(set(every)) == len(every) == 2 * 20 * 3 * 13
    assert seeds_of(replace(job, method="omit")) == seeds_of(job)


def test_every_style_and_the_plain_prompt_take_turns(pack, job):
    from dataclasses import replace

    from concept_erasure.benchmarks.framework.prompts import FORMS

    asked = [p.style for turn in range(3) for p in replace(job, turn=turn).prompts[:6]]
    assert sorted(map(str, asked)) == sorted(2 * list(map(str, FORMS)))


def test_few_images_a_target_still_show_every_style_and_object(pack):
    from concept_erasure.benchmarks.framework.prompts import SPLITS, Plan, prompts_of
    from concept_erasure.demo_model.vocabulary import OBJECTS, STYLES

    made = [prompts_of(target, Plan(2, 2, 2), SPLITS["tuning"]) for target in OBJECTS]
    for kind in (slice(0, 2), slice(4, 6)):
        styles = [prompt.style for prompts in made for prompt in prompts[kind]]
        assert min(styles.count(style) for style in STYLES) >= 4, "of 40"
    assert {prompt.objects[0] for prompts in made for prompt in prompts[2:4]} == set(OBJECTS)


def test_outcomes_are_counted_as_the_paper_counts_them(pack):
    from concept_erasure.benchmarks.comparison.rows import average
    from concept_erasure.benchmarks.framework.outcomes import Outcome, Row
    from concept_erasure.benchmarks.framework.prompts import Prompt
    from concept_erasure.demo_model.vocabulary import OBJECTS, STYLES

    def shown(*names):
        return [name in names for name in OBJECTS]

    photo, neon = STYLES.index("photo"), STYLES.index("neon")
    outcome, before = Outcome(artifacts={"denoising": [False, True]}), Outcome(both=[True, True, False])
    outcome.note("cat", Prompt(("cat",), "photo", 0), shown(), photo)
    outcome.note("cat", Prompt(("cat",), "photo", 1), shown("dog"), neon)
    outcome.note("cat", Prompt(("cat",), None, 2), shown("cat"), neon)
    outcome.note("cat", Prompt(("bear",), "neon", 3), shown("bear", "cat"), neon)
    for found in (shown("dog"), shown("dog", "cat"), shown("dog")):
        outcome.note("cat", Prompt(("dog", "cat"), "photo", 4), found, photo)
    row = Row({("cat", 0): outcome}, {("cat", 0): before})
    assert row.values("UA") == [True, True, False]
    assert row.values("nothing") == [True, False, False]
    assert row.values("IRA") == [True]
    assert row.values("CRA") == [True, False, True]  # the plain prompt asks for no style
    assert row.values("pair") == [True, False]  # the third pair did not show both before
    assert row.values("denoising") == [False, True]
    assert row.values("IRA", ["cat", "dog", "cat"]) == [True, True]
    assert average(row) == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)


@pytest.mark.parametrize(("hits", "text"), [([True] * 97 + [False] * 3, "97.0 ± 3.7"), ([], "-")])
def test_a_share_stands_with_its_wilson_interval(pack, hits, text):
    from concept_erasure.benchmarks.framework.tables import percent

    assert percent(hits) == text


def test_a_table_is_written_as_it_is_printed(pack, tmp_path, monkeypatch, capsys):
    """With the ends of Wilson's interval (97 of 100: 91.5 to 99.0), and the command as it can be given again."""
    import json

    from concept_erasure.benchmarks.framework.outcomes import Outcome, Row
    from concept_erasure.benchmarks.framework.tables import Table

    outcomes = {
        ("cat", 0): Outcome(gone=[True] * 97, commit="one"),
        ("dog", 0): Outcome(gone=[False] * 3, commit="two"),
    }
    row = Row(outcomes, outcomes)
    monkeypatch.setattr(sys, "argv", ["host benchmarks.erasure", "a similar"])
    monkeypatch.setenv("COMFYUI_OPTIONS", "--bf16-unet")
    shown = Table("setting", ("UA", "pair"))
    shown.add_outcomes("similar", row, spelled="a similar")
    shown.write(tmp_path / "table.json", "In percent.", split="tuning")
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["command"] == "COMFYUI_OPTIONS=--bf16-unet python dev/host benchmarks.erasure 'a similar'"
    assert (table["dtype"], table["split"], table["of"]) == ("float32", "tuning", "setting")
    assert table["cpu"] and "commit" in table and table["host"].startswith("ComfyUI ")
    assert table["notes"] == ["In percent."]
    (written,) = table["rows"]
    assert (written["setting"], written["spelled"], written["commits"]) == ("similar", "a similar", ["one", "two"])
    assert written["columns"]["pair"] is None, "no pair was asked for"
    found = written["columns"]["UA"]
    assert (found["value"], found["samples"]) == (97.0, 100)
    assert found["interval"] == pytest.approx([91.5, 99.0], abs=0.1)
    assert "| similar | 97.0 (92 to 99; n 100) | - |" in capsys.readouterr().out


def test_a_mean_has_its_interval_and_one_value_alone_has_none(pack):
    """Of 0.1 and 0.3 the standard error is 0.1, and of two values 95 % lie within 12.706 of it (Student's t)."""
    from concept_erasure.benchmarks.framework.tables import average, shown

    found = average([0.1, 0.3])
    assert found["interval"] == pytest.approx([0.2 - 1.2706, 0.2 + 1.2706], abs=1e-4) and found["samples"] == 2
    assert shown(found) == "0.200 ± 1.271 (n 2)"
    assert (average([0.25]), average([])) == (0.25, None)


def test_detection_is_summed_up_by_mean_and_lowest(pack):
    from concept_erasure.benchmarks.framework.localization import summaries

    unseen = [float("nan"), 0.0]
    rows = summaries(np.array([[[0.9, 0.2], [0.7, 0.4], unseen]]))  # one band, three concepts
    assert rows["AUC"][0]["value"] == pytest.approx(0.8) and rows["AUC, lowest"] == [0.7]
    assert rows["IoU"][0]["value"] == pytest.approx(0.3) and rows["IoU, lowest"] == [0.2]
    assert summaries(np.array([[unseen]]))["AUC, lowest"] == [None]


def test_the_average_over_targets_is_of_those_that_were_erased(pack):
    from concept_erasure.benchmarks.comparison.table import over_targets
    from concept_erasure.benchmarks.framework.outcomes import Outcome, Row

    outcomes = {(name, 0): Outcome(gone=[gone]) for name, gone in (("cat", True), ("dog", False))}
    found = over_targets(Row(outcomes, outcomes), ("UA",))
    assert found["value"] == 50.0 and found["interval"] == [0.0, 100.0]


def test_the_comparison_is_written_with_averages(pack, tmp_path, monkeypatch):
    from dataclasses import asdict

    from concept_erasure.benchmarks.artifacts.both import MEASURES
    from concept_erasure.benchmarks.comparison import jobs
    from concept_erasure.benchmarks.comparison.rows import table_jobs
    from concept_erasure.benchmarks.comparison.table import table_of
    from concept_erasure.benchmarks.framework import storage
    from concept_erasure.benchmarks.framework.outcomes import Outcome

    monkeypatch.setattr(jobs, "WORK", tmp_path)
    named = {"unedited": "plain", "word left out": "omit", "not made yet": "negative"}
    wanted = table_jobs(named.values(), 1, "", ["cat", "dog"])
    assert {job.target for job in wanted} == {"cat", "dog"}
    for job in wanted:
        edited = job.method == "omit"
        lists = {name: [edited] for name in ("gone", "nothing", "both", "pair")}
        found = {name: [edited and name == MEASURES[0]] for name in MEASURES}
        outcome = Outcome(**lists, others=[True], style=[True], artifacts=found, images=4)
        if job.method != "negative":
            storage.write_json(job.path, asdict(outcome))
    plain, omit = table_of(named, wanted, "").rows
    assert (plain["setting"], omit["spelled"]) == ("unedited", "omit")
    figures = omit["columns"]
    assert figures["UA"]["value"] == 100.0 and figures["UA"]["samples"] == 2
    assert plain["columns"]["Avg"]["value"] == pytest.approx(200 / 3) and figures["Avg"]["value"] == 100.0
    assert (figures["AR"]["value"], figures["GA"]) == (50.0, 87.5)


def test_an_outcome_on_disk_is_not_made_again(pack, job, tmp_path, monkeypatch):
    from concept_erasure.benchmarks.comparison import jobs
    from concept_erasure.benchmarks.framework.outcomes import Outcome

    monkeypatch.setattr(jobs, "WORK", tmp_path)
    monkeypatch.setattr(
        jobs, "run", lambda bench, job: Outcome(gone=[True], artifacts={"own judge": [False]}, images=1)
    )
    assert not jobs.row_of([job], job.method).outcomes
    made = jobs.done(job, None)
    monkeypatch.setattr(jobs, "run", None)
    assert jobs.done(job, None) == made == jobs.row_of([job], job.method).outcomes["cat", 1]
    assert made == Outcome(gone=[True], artifacts={"own judge": [False]}, images=1)


def test_an_interrupted_write_leaves_nothing(pack, tmp_path):
    from concept_erasure.benchmarks.framework import storage

    def interrupted():
        with storage.whole(tmp_path / "x.json") as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert storage.read_json(tmp_path / "x.json") == {}


def test_a_mask_that_is_empty_or_full_changes_nothing_and_any_other_does(bench, prompts, unedited):
    from concept_erasure.benchmarks.comparison.given_mask import GivenMask
    from concept_erasure.unet.hooks import attach_observer

    masks = torch.zeros(3, GRID, GRID, dtype=torch.bool)
    masks[1] = True
    masks[2, GRID // 4 : GRID * 3 // 4, GRID // 4 : GRID * 3 // 4] = True
    made = bench.vae.decode(bench.latents_of(attach_observer(bench.model, GivenMask(masks)), prompts))
    assert torch.equal(made[:2], unedited[:2])
    assert not torch.equal(made[2], unedited[2])


def test_what_the_benchmarks_call_the_defaults_are_those_of_the_nodes(pack):
    from concept_erasure.benchmarks.framework.settings import ONE_PASS, Setting
    from concept_erasure.erasure.replacement import Replacement

    spelled = Setting.parse(f"a {ONE_PASS}")
    assert spelled.replacement == Replacement() and spelled.refinement.is_neutral
    assert spelled.blocks(detector("a")) is None, "attach decides, as for the nodes"
    assert (spelled.sensitivity, spelled.start, spelled.end, spelled.steering) == (1.0, 0.0, 1.0, None)


def test_a_setting_says_which_source_patches_and_which_blocks(pack):
    from concept_erasure.benchmarks.framework.settings import Setting
    from concept_erasure.erasure.replacement import Replacement

    published = Setting.parse("a+b@0-0.3 random both")
    assert published.replacement == Replacement("random", "both", source_share=1.0)
    assert published.hookpoints == ("a", "b") and published.blocks(detector("a")) == ("a",)
    assert Setting.parse("a nearest positive 1.0 at=x,y share=0.5").blocks(detector("a")) == ("x", "y")
    shaped = Setting.parse("a similar positive 2.0 0.1-0.5 min_patches=3 min_area=0.09")
    assert (shaped.sensitivity, shaped.start, shaped.end) == (2.0, 0.1, 0.5)
    assert (shaped.refinement.min_patches, shaped.refinement.min_area) == (3, 0.09)


@pytest.mark.research
def test_perpneg_pushes_away_only_with_a_scale(bench, prompts, unedited):
    assert torch.allclose(made_by(bench, "perpneg 0.0", prompts), unedited, atol=1e-3)
    assert not torch.allclose(made_by(bench, "perpneg 1.0", prompts), unedited, atol=1e-2)


@pytest.mark.research
def test_only_what_is_detected_is_drawn_anew(bench, prompts, unedited):
    kept = made_by(bench, "inpaint outputs none positive 0.0", prompts)
    assert torch.allclose(kept, unedited, atol=1e-3)
    changed = (made_by(bench, "inpaint outputs none positive 1.0", prompts) - unedited).abs().amax(-1) > 0.05
    assert changed.any() and not changed.all()


@pytest.fixture(scope="module")
def scenes(bench):
    """320 scenes as the VAE gives them back, half of them empty, and their styles."""
    from concept_erasure.demo_model.vocabulary import STYLES
    from concept_erasure.dev.demo_model.scenes import HELD_OUT, render

    drawn = [render(s, ("cat",) if i % 2 else (), STYLES[i // 2 % 8]) for i, s in enumerate(HELD_OUT[60_000:60_320])]
    images = torch.from_numpy(np.stack([scene.image for scene in drawn])).float() / 255
    return bench.vae.decode(bench.vae.encode(images)), [scene.style for scene in drawn]


@pytest.mark.research
def test_artifacts_are_told_from_unedited_images_of_the_same_kind(bench, scenes, monkeypatch):
    """The limits lie at the 95th percentile of each group, and a vivid disc is beyond them."""
    from concept_erasure.benchmarks.artifacts import both, errors
    from concept_erasure.benchmarks.artifacts.deliberate import blob, damaged

    images, styles = scenes
    monkeypatch.setattr(errors, "NOISES", 2)
    judge = both.BothJudge(bench.judge, bench.model, bench.clip, bench.vae, images, styles)
    for alarms in judge.found(images, styles).values():
        assert 0.03 < np.mean(alarms) < 0.08
    assert judge.groups(images[:2], styles[:2]).tolist() == [0, 1]
    for found in judge.found(damaged(images[:80], blob), styles[:80]).values():
        assert np.mean(found) > 0.8


@pytest.mark.research
def test_the_round_trip_alone_sees_a_vivid_disc_too(bench, scenes):
    from concept_erasure.benchmarks.artifacts.deliberate import blob, damaged
    from concept_erasure.benchmarks.artifacts.round_trip import NAME, RoundTripJudge

    images, styles = scenes[0][:160], scenes[1][:160]
    judge = RoundTripJudge(bench.vae, images, styles)
    assert 0.03 < np.mean(judge.found(images, styles)[NAME]) < 0.08
    assert np.mean(judge.found(damaged(images[:80], blob), styles[:80])[NAME]) > 0.8


@pytest.mark.research
def test_a_spot_is_damaged_and_nothing_else(bench, scenes):
    from concept_erasure.benchmarks.artifacts import spots

    images, styles = scenes[0][:6].clone(), ["photo", "neon", "sketch"] * 2
    for damage in spots.PIXEL_DAMAGES:
        changed = (spots.spotted(images, styles, damage, bench.vae) - images).abs().amax(-1) > 0
        cells = changed.reshape(6, GRID, FACTOR, GRID, FACTOR).float().mean((2, 4))
        assert (cells > 0).flatten(1).any(1).all() and (cells == 0).flatten(1).any(1).all()


def test_a_judge_of_ones_own_is_a_function_or_a_command(pack, tmp_path):
    from concept_erasure.benchmarks.artifacts.own import own_judge

    script = tmp_path / "judge.py"
    script.write_text("import sys\nfor path in sys.argv[1:]:\n    print(int('bad' in path))\n")
    files = [tmp_path / "good.png", tmp_path / "bad.png"]
    assert own_judge(f"{sys.executable} {script}")(files) == [0.0, 1.0]
    assert own_judge("os.path:basename")("a/b") == "b"
    with pytest.raises(ValueError, match="1 scores for 2"):
        own_judge(f"{sys.executable} -c print(1)")(files)


def test_the_first_latents_are_guided_by_what_is_known_of_a_patch(pack):
    from concept_erasure.benchmarks.comparison.saes import mask_labels, prompt_labels
    from concept_erasure.demo_model.vocabulary import OBJECTS
    from concept_erasure.dev.demo_model.activations import Generated, Noised

    generated = Generated([torch.zeros(2, 3, 4, 5)], [("cat",), ("dog", "bear")])
    labels = prompt_labels(generated, 0).reshape(2, 12, 20)
    assert (labels[0] == 0).all(0).sum() == 19 and (labels[0, :, OBJECTS.index("cat")] == 255).all()
    assert (labels[1] == 255).all(0).sum() == 2
    masks = torch.zeros(20, 1, 4)
    masks[3, 0] = torch.tensor([0.0, 0.3, 0.6, 1.0])
    labels = mask_labels(Noised(torch.zeros(1, 1, 4, 5), (2, 2), masks, torch.zeros(1)))
    assert labels[:, 3].tolist() == [0, 255, 1, 1] and labels[:, 4].tolist() == [0] * 4


def test_steering_ranks_latents_by_saeurons_score(pack):
    from concept_erasure.benchmarks.comparison.saes import ranked
    from concept_erasure.sae_models.scoring import score_features

    means = torch.rand(20, 5, 64, generator=torch.Generator().manual_seed(0))
    found = ranked(means)
    band = found.concepts["dog"].bands[2]
    assert band.features[0] == score_features(means, 5)[2].argmax() and list(band.scores) == sorted(band.scores)[::-1]
    assert band.thresholds == pytest.approx(means.mean(0)[2, list(band.features)].tolist())
    assert band.means == pytest.approx(means[5, 2, list(band.features)].tolist())


def test_the_best_mean_wins_and_of_equals_the_first(pack, monkeypatch):
    from concept_erasure.benchmarks.comparison import rows
    from concept_erasure.benchmarks.framework.outcomes import Outcome, Row

    gone = {"weak": [False], "right": [True], "strong": [True]}

    def on_disk(jobs, method):
        assert {job.split for job in jobs} == {"tuning"}
        outcomes = {("cat", 0): Outcome(gone[method], [], [method != "strong"], [True])}
        return Row(outcomes, outcomes)

    monkeypatch.setattr(rows, "row_of", on_disk)
    assert rows.chosen(["weak", "right", "strong"]) == "right"
    gone["weak"] = [True]
    assert rows.chosen(["weak", "right", "strong"]) == "weak"


def test_a_mixture_of_one_word_is_that_word(bench):
    from concept_erasure.benchmarks.comparison.attack import mixed_encoding, words_of
    from concept_erasure.demo_model.text_encoder import WORDS
    from concept_erasure.dev.demo_model.sampling import encode

    prefix = ["dog", "neon", "a", "empty", "dog"]
    mixtures = torch.nn.functional.one_hot(torch.tensor([WORDS.index(w) for w in prefix]), len(WORDS)).float()[None]
    written = encode(bench.clip, [f"dog neon a empty dog {STILL}"])[0][0]
    assert torch.allclose(mixed_encoding(bench.clip, [STILL], mixtures), written, atol=1e-5)
    assert words_of(mixtures[0]).split() == prefix


def test_the_attack_seeks_words_against_one_pass_and_asks_for_the_chosen_strength(bench, monkeypatch, tmp_path):
    from concept_erasure.benchmarks.comparison import attack, jobs
    from concept_erasure.unet.passes import director_of

    (kept,) = [method for name, method in attack.OTHERS.items() if name == attack.DEFAULT]
    both, _ = bench.edited(attack.Setting.parse(kept), "cat")
    assert director_of(both) is not None and director_of(attack.attackable(bench, kept, "cat")) is None
    monkeypatch.setattr(jobs, "WORK", tmp_path)
    with pytest.raises(SystemExit, match=r"benchmarks\.comparison --targets bear cat"):
        attack.methods_for(["bear", "cat"])


@pytest.mark.research
@pytest.mark.parametrize("method", ["outputs similar positive 1.0", "outputs SAeUron both -15"])
def test_the_attack_moves_words_through_the_edited_model(bench, prompts, method):
    """The loss of an edited model depends on the prefix, and its gradient points downhill."""
    from concept_erasure.benchmarks.comparison.attack import attackable, mixed_encoding, noise_loss
    from concept_erasure.demo_model.text_encoder import WORDS
    from concept_erasure.dev.demo_model.sampling import sample

    texts = [prompt.text for prompt in prompts[:2]]
    latents = sample(bench.model, bench.clip, texts, [prompt.seed for prompt in prompts[:2]]).clone()
    model = attackable(bench, method, "cat")
    scores = torch.zeros(2, 5, len(WORDS), requires_grad=True)

    def loss(of):
        return noise_loss(model, mixed_encoding(bench.clip, texts, of.softmax(2)), latents, [3.0, 1.0], 0)

    first = loss(scores)
    first.backward()
    assert scores.grad is not None and scores.grad.abs().max() > 0
    with torch.no_grad():
        assert loss(scores - 20 * scores.grad / scores.grad.norm() * 0.05) < first
    plain = noise_loss(bench.model, mixed_encoding(bench.clip, texts, scores.softmax(2)), latents, [3.0, 1.0], 0)
    assert not torch.equal(plain, first)


def test_results_depend_on_what_weights_are_and_not_on_how_they_were_written(pack, tmp_path):
    from concept_erasure.benchmarks.framework.storage import digest
    from safetensors.torch import save_file

    facts = {str(i): "x" for i in range(20)}
    for name, value in (("one", 1.0), ("same", 1.0), ("other", 2.0)):
        save_file({"a": torch.full((3,), value)}, tmp_path / name, facts)
    one, same, other = (digest(tmp_path / name) for name in ("one", "same", "other"))
    assert one == same != other


def test_guided_latents_fire_at_even_odds_and_explain_what_is_left(pack):
    from concept_erasure.benchmarks.comparison.saes import lift
    from concept_erasure.sae_models.sae import SAEConfig, SparseAutoencoder

    sae = SparseAutoencoder(SAEConfig(4, 6, 2, "middle_block.1"), with_decoder=True)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.zero_()
        sae.encoder.weight[0, 0] = 1.0
        sae.encoder.bias[0] = -3.0
    x = torch.zeros(100, 4)
    x[:10] = torch.tensor([2.0, 5.0, 0.0, 0.0])  # a tenth show the concept
    labels = torch.zeros(100, 1, dtype=torch.uint8)
    labels[:10], labels[90:] = 1, 255
    lift(sae, 1.0, x, labels)
    assert float(sae.encoder.bias[0]) == pytest.approx(-3 + np.log(8))
    assert torch.allclose(sae(x[:10]), x[:10], atol=1e-4)


def test_gradients_pass_steered_patches_as_if_nothing_was_added(bench):
    from concept_erasure.benchmarks.comparison.attack import PassedOn
    from concept_erasure.erasure.history import ErasureRecord
    from concept_erasure.steering.steerer import SteeredConcept, Steerer
    from concept_erasure.steering.steering import Steering

    sae = bench.sae("outputs")
    sae.load_decoder()
    x = torch.randn(1, sae.config.d_in, 8, 8, generator=torch.Generator().manual_seed(0)) * 3
    output, results = x.clone().requires_grad_(), []
    for kind in (Steerer, PassedOn):
        steerer = kind(SteeredConcept(sae, sae.concept("cat")), Steering("additive", -5.0), ErasureRecord())
        steerer.begin(run_of())
        results.append(steerer.on_block(sae.config.hookpoint, x, output, call_of(run_of(), roles=("positive",))))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[1], output)
    results[1].sum().backward()
    assert torch.equal(output.grad, torch.ones_like(x))
