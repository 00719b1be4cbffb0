"""What reports are made of: sheets, text, heat maps, and charts."""

import numpy as np
import pytest
import torch
from PIL import Image


def plain(width, height, color=(9, 99, 199)):
    return Image.new("RGB", (width, height), color)


def test_tensors_and_images_are_the_same_pixels(pack):
    from concept_erasure.reports.images import to_pil, to_tensor

    image = Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))
    assert to_tensor(image).shape == (5, 7, 3) and to_pil(to_tensor(image)).tobytes() == image.tobytes()


def test_a_sheet_is_rows_of_images(pack):
    from concept_erasure.reports.images import in_rows, sheet
    from concept_erasure.reports.style import BACKGROUND

    images = [plain(10, 6, (i, 0, 0)) for i in range(5)]
    whole = sheet([[plain(4, 2)], [], *in_rows(images, 3)], gap=2, margin=1)
    assert whole.size == (2 + 3 * 10 + 2 * 2, 2 + 2 + 6 + 6 + 2 * 2)
    assert whole.getpixel((1, 1)) == (9, 99, 199) and whole.getpixel((0, 0)) == BACKGROUND
    assert [whole.getpixel((1 + 12 * i, 5))[0] for i in range(3)] == [0, 1, 2]
    assert whole.getpixel((13, 13)) == (4, 0, 0) and whole.getpixel((25, 13)) == BACKGROUND


def test_a_batch_has_one_height(pack):
    from concept_erasure.reports.images import batch
    from concept_erasure.reports.style import BACKGROUND

    images = batch([plain(4, 2), plain(4, 5)])
    assert images.shape == (2, 5, 4, 3)
    assert torch.allclose(images[0, 4, 0] * 255, torch.tensor(BACKGROUND).float())


@pytest.mark.parametrize(
    "text", ["several words that do not fit one line", "a_file_name_without_any_spaces_20261107.png"]
)
def test_text_is_wrapped_and_cut(pack, text):
    from concept_erasure.reports.images import PAD, words
    from concept_erasure.reports.style import BACKGROUND

    whole, cut = words(text, 90), words(text, 90, most=2)
    assert whole.width == cut.width == 90 and words("", 90).height < cut.height < whole.height
    margin = np.asarray(whole)[:, 90 - PAD :]
    assert (margin == BACKGROUND).all(), "nothing runs out of the field"


def test_a_heat_map_tints_the_patches_that_are_hot(pack):
    from concept_erasure.reports.images import outlined, tinted

    images, heat = torch.zeros(1, 8, 8, 3), torch.zeros(1, 2, 2)
    heat[0, 0, 1] = 1.0
    changed = tinted(images, heat).sum(-1)[0] > 0
    assert changed[:4, 4:].all() and changed.sum() == 16
    edge = outlined(images, heat > 0).sum(-1)[0] > 0
    assert edge[3, 4:].all() and edge[:4, 4].all() and edge.sum() == 7, "but not along the edge of the image"


def colored(chart, color):
    """Return x and y of the pixels that are nearly of a color."""
    near = np.abs(np.asarray(chart, dtype=int) - color).sum(-1) < 40
    y, x = near.nonzero()
    return x, y


def test_a_chart_puts_points_where_its_axes_say(pack):
    from concept_erasure.reports.chart import Line, line_chart
    from concept_erasure.reports.style import BLUE, RED

    rising = Line([(0, 0.0), (10, 1.0)], RED)
    x, y = colored(line_chart((300, 200), "", [rising], ("0", "10"), (0, 10)), RED)
    assert x.min() < 20 and x.max() > 280 and y[x.argmin()] > 170 and y[x.argmax()] < 40
    x, y = colored(line_chart((300, 200), "", [rising], ("10", "0"), (10, 0)), RED)
    assert y[x.argmin()] < 40 and y[x.argmax()] > 170, "an axis may fall"
    x, _ = colored(line_chart((300, 200), "", [rising], ("0", "20"), (0, 20)), RED)
    assert x.max() < 160, "and be longer than the line"
    _, y = colored(line_chart((300, 200), "", [Line([(0, 5.0), (1, 0.5)], RED)], ("", ""), top=1.0), RED)
    assert y.min() >= 26, "what exceeds the top is cut off"
    x, _ = colored(line_chart((300, 200), "", [Line.even([1.0], RED), Line([], BLUE)], ("", "")), RED)
    assert x.max() - x.min() > 250, "one value is a level line"


def test_lines_with_names_have_a_legend(pack):
    from concept_erasure.reports.chart import Line, line_chart
    from concept_erasure.reports.style import BLUE, RED

    lines = [Line.even([0.0, 0.0], RED, "edited"), Line([], BLUE, "unedited")]
    chart = line_chart((300, 200), "", lines, ("", ""))
    for color in (RED, BLUE):
        _, y = colored(chart, color)
        assert (y < 50).any()
    assert not len(colored(line_chart((300, 200), "", [Line([], BLUE)], ("", "")), BLUE)[0])


def test_words_stand_below_the_images_and_change_nothing_above(pack):
    from concept_erasure.reports.images import CARD, with_caption

    images = torch.rand(2, 64, CARD, 3)
    written = with_caption(images, ["576 patch embeddings replaced."])
    assert written.shape[0] == 2 and written.shape[1] > 64 and written.shape[2:] == (CARD, 3)
    assert torch.equal(written[:, :64], images)
    assert torch.equal(written[0, 64:], written[1, 64:]) and written[:, 64:].std() > 0.05, "words are drawn there"
    warned = with_caption(images, ["576 patch embeddings replaced."], ["Another node rearranges it (12 times)."])
    assert warned.shape[1] > written.shape[1]
    red = (warned[..., 0] - warned[..., 2])[:, 64:]
    assert (red > 0.2).any() and not ((written[..., 0] - written[..., 2])[:, 64:] > 0.2).any()


def test_words_of_each_image_stand_below_it(pack):
    from concept_erasure.reports.images import with_caption

    written = with_caption(torch.zeros(2, 64, 512, 3), ["one", "another"])
    assert not torch.equal(written[0, 64:], written[1, 64:])


def test_words_are_read_in_a_node_of_300_pixels(pack):
    """A font of 8 pixels on the screen is read; so a small image is enlarged before it gets words."""
    from concept_erasure.reports.images import card, with_caption

    for image in (card("words"), with_caption(torch.zeros(1, 96, 96, 3), ["words"])):
        lines = (image[0].std(dim=(1, 2)) > 0.02).nonzero().flatten()
        height = int(lines.max() - lines.min()) + 1  # of the letters "words", which reach neither up nor down
        assert height * 300 / image.shape[2] >= 6
