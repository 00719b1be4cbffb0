"""The demo model's tokenizer: the words it knows, other spellings, weights, and what it says about the rest."""

import logging

import pytest


@pytest.fixture
def tokenizer(pack):
    from concept_erasure.demo_model.text_encoder import CanvasTokenizer

    return CanvasTokenizer()


def sections(tokenizer, text):
    return tokenizer.tokenize_with_weights(text)["canvas"]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("An image of Cats in photo style.", "an image of cat in photo style"),
        ("Architectures, Butterflies and Fishes", "architecture butterfly and fish"),
        ("a JELLYFISH in watercolour style", "a jellyfish in watercolor style"),
        ("Sandwiches with a person", "sandwich and a human"),
    ],
)
def test_labels_and_spellings(tokenizer, said, meant, caplog):
    assert sections(tokenizer, said) == sections(tokenizer, meant)
    assert not caplog.records


def test_every_unlearncanvas_label_is_known(tokenizer, caplog):
    labels = """Architectures Bears Birds Butterfly Cats Dogs Fishes Flame Flowers Frogs Horses Human Jellyfish
    Rabbits Sandwiches Sea Statues Towers Trees Waterfalls"""
    sections(tokenizer, labels)
    assert not caplog.records


def test_unknown_words_are_ignored_and_named_once(tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert sections(tokenizer, "a majestic cat, trending") == sections(tokenizer, "a cat")
    (record,) = caplog.records
    message = record.getMessage()
    assert "majestic" in message and "trending" in message
    assert "jellyfish" in message and "blueprint" in message  # what it does know


def test_weights(tokenizer):
    ((_, _, cat, *_),) = sections(tokenizer, "a (cat:1.3) image")
    assert cat[1] == pytest.approx(1.3)


def test_a_long_prompt_becomes_several_sections(tokenizer):
    assert [len(section) for section in sections(tokenizer, "cat " * 40)] == [16, 16, 16]
    assert len(sections(tokenizer, "")) == 1


def test_the_host_encodes_weights_and_long_prompts(canvas):
    from concept_erasure.demo_model.text_encoder import LENGTH, WIDTH

    _, clip, _ = canvas

    def encode(text):
        ((tensor, extra),) = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        assert "pooled_output" in extra
        return tensor

    plain, heavy, same, long = map(encode, ("a cat", "a (cat:1.5)", "a (cat:1.0)", "cat " * 20))
    assert plain.shape == (1, LENGTH, WIDTH) and long.shape == (1, 2 * LENGTH, WIDTH)
    assert (plain == same).all() and not (plain == heavy).all()


def test_a_clone_with_skipped_layers_still_encodes(canvas):
    clip = canvas[1].clone()
    clip.clip_layer(-2)
    assert clip.encode_from_tokens(clip.tokenize("a dog")).isfinite().all()
