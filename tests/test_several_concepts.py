"""One Concept Detector for several concepts: the same masks as one detector each, with one encode a call."""

import pytest
import torch
from support.demo_model import GRID
from support.running import sample


@pytest.fixture(scope="module")
def made(pack):
    """A random SAE, patch embeddings, and concepts that differ in bands, features and rule."""
    from concept_erasure.sae_models.concepts import Concept, ConceptBand
    from concept_erasure.sae_models.sae import SAEConfig, SparseAutoencoder

    torch.manual_seed(0)
    sae = SparseAutoencoder(SAEConfig(8, 64, 4, "output_blocks.0.1"), with_decoder=True)
    torch.nn.init.normal_(sae.decoder_weight)
    concepts = [
        Concept("a", (0.0, 1000.0), (ConceptBand((3, 17, 40), (0.2,) * 3),)),
        Concept("b", (0.0, 300.0, 600.0, 1000.0), tuple(ConceptBand((i,), (0.1,)) for i in (5, 6, 7)), "any"),
        Concept(
            "c", (0.0, 500.0, 1000.0), (ConceptBand((9,), (0.1,), against=(3, 8), against_thresholds=(0.3, 0.2)),) * 2
        ),
        Concept("d", (0.0, 1000.0), (ConceptBand((), ()),)),
    ]
    return sae.requires_grad_(False), torch.randn(500, 8), concepts


@pytest.mark.parametrize("timestep", [0.0, 299.0, 300.0, 550.0, 999.0])
def test_several_are_found_as_each_alone(made, timestep):
    from concept_erasure.erasure.scorer import ConceptScorer

    sae, x, concepts = made
    alone = [ConceptScorer(sae, each, 1.5, x.device)(x, torch.tensor(timestep))[0] for each in concepts]
    together, finite = ConceptScorer(sae, concepts[0], 1.5, x.device, concepts[1:])(x, torch.tensor(timestep))
    assert finite and torch.equal(together.each, torch.stack([each.mask for each in alone]))
    assert torch.equal(together.mask, torch.stack([each.mask for each in alone]).any(0))
    assert torch.allclose(together.raw_score, torch.stack([each.raw_score for each in alone]).amax(0))
    assert all(each.mask.any() for each in alone[:3]) and not alone[3].mask.any()


def test_they_are_encoded_once(made, monkeypatch):
    from concept_erasure.erasure import scorer

    sae, x, concepts = made
    calls, whole = [], scorer.competing
    monkeypatch.setattr(scorer, "competing", lambda *args: calls.append(args) or whole(*args))
    scorer.ConceptScorer(sae, concepts[0], 1.0, x.device, concepts[1:])(x, torch.tensor(1.0))
    assert len(calls) == 1


def test_one_node_for_all_is_the_union_of_one_each(nodes, sae, canvas):
    """The image, bit for bit, and the record says which was found where."""
    detector = nodes.ConceptDetector
    settings = ("similar", "middle and SAE block", 0.25, "positive", 0, "", "may change")
    joined = detector.execute(sae, "cat", 1.0, 0.0, 1.0, "", "union").args[0]
    for name in ("dog", "bird"):
        joined = detector.execute(sae, name, 1.0, 0.0, 1.0, "", "union", join_with=joined).args[0]
    one = detector.execute(sae, "cat", 1.0, 0.0, 1.0, "", "union", "dog, bird,cat").args[0]
    assert [each.name for each in one.concepts] == ["cat", "dog", "bird"]
    (first, apart), (second, together) = (
        nodes.PatchReplacer.execute(canvas[0], d, *settings).args for d in (joined, one)
    )
    assert torch.equal(sample(canvas, first), sample(canvas, second))
    for record in (apart.latest, together.latest):
        assert list(record.concepts) == ["cat", "dog", "bird"]
        assert (record.concepts["cat"] > 0).float().mean() > (record.concepts["bird"] > 0).float().mean()
        assert "cat in" in record.figures()
    for name in ("cat", "dog", "bird"):
        assert torch.equal(apart.latest.concepts[name], together.latest.concepts[name])
    some = together.latest.of([0])
    assert torch.equal(some.concepts["cat"], together.latest.concepts["cat"][:1])


def test_all_stands_for_all_that_the_file_knows(nodes, sae):
    one = nodes.ConceptDetector.execute(sae, "cat", 1.0, 0.0, 1.0, "", "union", "All").args[0]
    assert sorted(each.name for each in one.concepts) == sae.dictionary.names()


def test_a_name_that_the_sae_does_not_know_is_named(nodes, sae):
    with pytest.raises(
        ValueError, match=r"Concept Detector: input 'more_concepts'.*does not know the concept 'unicorn'"
    ):
        nodes.ConceptDetector.execute(sae, "cat", 1.0, 0.0, 1.0, "", "union", "dog, unicorn")


def test_a_concept_is_found_in_an_image_that_exists(nodes, sae, canvas):
    """In a generated cat there is a cat, and hardly a sandwich; a mask and a heat map come out."""
    latents = sample(canvas, canvas[0], size=(GRID, GRID))
    image = canvas[2].decode(latents)
    empty = canvas[1].encode_from_tokens_scheduled(canvas[1].tokenize(""))

    def look(source, concept, **more):
        detection = nodes.ConceptDetector.execute(sae, concept, 1.0, 0.0, more.pop("end", 1.0), "", "union").args[0]
        settings = {"min_share": 0.5, "timestep": 100, "noise_samples": 3, "seed": 0, **more}
        node = nodes.DetectInImage
        return node.execute(canvas[0], canvas[2], detection, empty, source, **settings)

    cat = look(image, "cat")
    heat, mask = cat.args
    assert mask.shape == image.shape[:3] and heat.shape[2] >= 512
    assert mask.mean() > 0.05 > look(image, "sandwich").args[1].mean()
    assert "of all patches detected" in cat.ui["text"][0]
    assert torch.equal(look({"samples": latents}, "cat").args[1], look({"samples": latents}, "cat").args[1])
    assert "No detector looks" in look(image, "cat", end=0.5).ui["text"][0]


LIST = "concepts/animals.txt"


@pytest.fixture
def animals(sae_folder):
    """A list as an editor on Windows saves it, with a comment, a repeated name and names in one line."""
    path = sae_folder / "concepts" / "animals.txt"
    path.parent.mkdir()
    path.write_bytes("dog  # not in the office\r\n\r\nbird, horse\r\ndog\r\n".encode("utf-16"))
    return path


def found_by(nodes, sae, concept, more=""):
    detection = nodes.ConceptDetector.execute(sae, concept, 1.0, 0.0, 1.0, "", "union", more).args[0]
    return [each.name for each in detection.concepts]


def test_a_saved_list_is_offered_and_finds_all_that_it_names(nodes, sae, animals):
    assert LIST in nodes.ConceptDetector.INPUT_TYPES()["required"]["concept"][1]["options"]
    assert found_by(nodes, sae, LIST) == ["dog", "bird", "horse"]
    assert found_by(nodes, sae, "cat", f"bird, {LIST}") == ["cat", "bird", "dog", "horse"]


def test_a_changed_list_is_read_again(nodes, animals):
    before = [nodes.ConceptDetector.fingerprint_inputs(*choice) for choice in ((LIST,), ("cat", f"dog, {LIST}"))]
    animals.write_text("frog", encoding="utf-8")
    after = [nodes.ConceptDetector.fingerprint_inputs(*choice) for choice in ((LIST,), ("cat", f"dog, {LIST}"))]
    assert before[0] != after[0] and before[1] != after[1]


def test_more_concepts_may_come_by_a_link(nodes):
    """ComfyUI asks for the fingerprint before it knows what a link brings."""
    assert nodes.ConceptDetector.fingerprint_inputs(concept="cat", more_concepts=None) is None


def test_a_concept_that_is_called_all_is_one_concept(nodes, sae):
    with pytest.raises(ValueError, match=r"input 'concept': .*does not know the concept 'all'"):
        found_by(nodes, sae, "all")


def test_what_is_named_twice_is_found_once(nodes, sae, animals):
    assert found_by(nodes, sae, LIST, f"bird, {LIST}, cat") == ["dog", "bird", "horse", "cat"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\nunicorn", r"input 'concept', list 'concepts/animals.txt': .*does not know the concept 'unicorn'"),
        (b"# nothing\n , \n", r"input 'concept': the list 'concepts/animals.txt' names no concept\. Write one"),
        (b"\xff\xfe\x00", r"input 'concept': the list .* cannot be read as text .*Save it as UTF-8"),
        (None, r"input 'concept': there is no list 'concepts/animals.txt'"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(nodes, sae, animals, content, message):
    animals.unlink()
    if content is not None:
        animals.write_bytes(content)
    with pytest.raises(ValueError, match=f"Concept Detector: {message}"):
        found_by(nodes, sae, LIST)


@pytest.mark.parametrize("path", ["concepts/../secret.txt", "concepts/../../../secret.txt"])
def test_a_list_outside_of_the_folder_is_not_read(nodes, sae, animals, path):
    for folder in (animals.parents[1], animals.parents[3]):
        (folder / "secret.txt").write_text("cat", encoding="utf-8")
    with pytest.raises(ValueError, match="there is no list"):
        found_by(nodes, sae, path)
