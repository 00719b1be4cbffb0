"""What nodes show while a model samples, seen from ComfyUI's own record of progress."""

import pytest
import torch
from support.demo_model import latents
from support.running import sample

REPLACER = "ConceptErasurePatchReplacer"
SETTINGS = ("similar", "middle and SAE block", 0.25, "positive", 0, "", "may change")


class Watch:
    """Collects what is shown: (node id, step, steps, image)."""

    name, enabled = "tests", True

    def __init__(self):
        self.shown, self.ended = [], []

    def set_registry(self, registry):
        """Take no notice."""

    def update_handler(self, node_id, value, max_value, state, prompt_id, image=None):
        if image is not None:
            self.shown.append((node_id, value, max_value, image[1]))

    def finish_handler(self, node_id, state, prompt_id):
        self.ended.append(node_id)

    def start_handler(self, node_id, state, prompt_id):
        """Take no notice."""

    def reset(self):
        """Take no notice."""


@pytest.fixture
def watch(pack, monkeypatch):
    """A prompt with a Patch Replacer as node 7 runs, with previews on."""
    import comfy.cli_args
    from comfy_execution import progress
    from comfy_execution.graph import DynamicPrompt
    from concept_erasure.nodes import live

    monkeypatch.setattr(comfy.cli_args.args, "preview_method", comfy.cli_args.LatentPreviewMethod.Latent2RGB)
    monkeypatch.setattr(live, "PAUSE", 0.0)
    progress.reset_progress_state(
        "prompt", DynamicPrompt({"7": {"class_type": REPLACER}, "8": {"class_type": "Other"}})
    )
    watching = Watch()
    progress.add_progress_handler(watching)
    yield watching
    progress.reset_progress_state("", DynamicPrompt({}))


def as_node(kind, node_id):
    """Return a node's class as ComfyUI runs it: one that knows which node of the graph it is."""
    from comfy_api.latest import _io

    own = type(kind.__name__, (kind,), {})
    own.hidden = _io.HiddenHolder.from_dict({"UNIQUE_ID": node_id})
    return own


def erased(nodes, sae, canvas, node_id, concept="cat"):
    """A model whose Patch Replacer is a node of a prompt."""
    detection = nodes.ConceptDetector.execute(sae, concept, 3.0, 0.0, 1.0, "", "union").args[0]
    node = as_node(nodes.PatchReplacer, node_id)
    return node.execute(canvas[0], detection, *SETTINGS).args


def test_each_step_is_shown_in_the_patch_replacers_node(nodes, sae, canvas, watch):
    model, record = erased(nodes, sae, canvas, "7")
    sample(canvas, model)
    shown = [each for each in watch.shown if each[0] == "7"]
    assert [each[1] for each in shown] == [1, 2, 3, 4] and {each[2] for each in shown} == {4}
    assert watch.ended.count("7") == 1
    assert min(shown[0][3].size) >= 256
    # An outlined patch has the outline's color, which no preview of the model has.
    from concept_erasure.reports.style import OUTLINE

    for (_, step, _, image), sigma in zip(shown, record.latest.sigmas(), strict=True):
        outlined = (torch.tensor(list(image.getdata())) == torch.tensor(OUTLINE)).all(1).any()
        assert bool(outlined) == bool(record.latest.step_mask(sigma).any()), step


def test_nothing_is_shown_where_previews_are_off(nodes, sae, canvas, watch, monkeypatch):
    import comfy.cli_args

    monkeypatch.setattr(comfy.cli_args.args, "preview_method", comfy.cli_args.LatentPreviewMethod.NoPreviews)
    sample(canvas, erased(nodes, sae, canvas, "7")[0])
    assert not watch.shown


@pytest.mark.parametrize("node_id", ["8", "9", None])
def test_nothing_is_shown_in_a_node_that_is_another_by_now(nodes, sae, canvas, watch, node_id):
    """An output that ComfyUI kept may be used in another workflow, in which its node id is another node's."""
    sample(canvas, erased(nodes, sae, canvas, node_id)[0])
    assert not watch.shown


def test_showing_changes_no_image_and_a_failing_preview_none_either(nodes, sae, canvas, watch, monkeypatch):
    from concept_erasure.nodes import live

    shown = sample(canvas, erased(nodes, sae, canvas, "7")[0])
    monkeypatch.setattr(live, "rough_image", lambda *_: 1 / 0)
    assert torch.equal(sample(canvas, erased(nodes, sae, canvas, "7")[0]), shown)
    assert torch.equal(sample(canvas, erased(nodes, sae, canvas, None)[0]), shown)


def test_the_samplers_own_callback_still_hears_of_each_step(nodes, sae, canvas, watch):
    import comfy.sample

    heard = []
    model = erased(nodes, sae, canvas, "7")[0]
    encode = canvas[1].encode_from_tokens_scheduled
    cond = encode(canvas[1].tokenize("A cat image in photo style"))
    latent = latents()
    comfy.sample.sample(
        model, latent, 3, 1.0, "euler", "normal", cond, cond, latent, callback=lambda step, *_: heard.append(step)
    )
    assert heard == [0, 1, 2]


def test_what_the_finder_samples_is_shown(pack, canvas, watch, monkeypatch):
    import comfy.utils
    from concept_erasure.unet import preview

    shown = []
    monkeypatch.setattr(preview, "PAUSE", 0.0)
    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", lambda _self, *values: shown.append(values))
    progress = preview.Progress(canvas[0], 4)
    progress.update(1, torch.randn(latents(2, (8, 12)).shape))
    done, total, (kind, image, _) = shown[0]
    assert (done, total, kind, image.size) == (1, 4, "JPEG", (12, 8))
    import comfy.cli_args

    monkeypatch.setattr(comfy.cli_args.args, "preview_method", comfy.cli_args.LatentPreviewMethod.NoPreviews)
    progress.update(1, torch.randn(latents(2, (8, 12)).shape))
    assert shown[1] == (2, 4, None)


def test_every_node_shows_its_words_through_one_helper(pack):
    from load import ROOT

    for path in (ROOT / "nodes").glob("*.py"):
        if path.name != "showing.py":
            assert "PreviewText" not in path.read_text() and "PreviewImage" not in path.read_text(), path.name
