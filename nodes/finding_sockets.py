"""Inputs and outputs that the nodes which find concepts and look at features have alike."""

from comfy_api.latest import io

from .sockets import CONCEPT

MOST_SEED = 0xFFFFFFFFFFFFFFFF


def seed_input(tooltip: str) -> io.Input:
    """Return a seed of any 64 bits."""
    return io.Int.Input("seed", default=0, min=0, max=MOST_SEED, tooltip=tooltip)


def size_input() -> io.Input:
    """Return the latent that says how large images are and how many are generated at once."""
    return io.Latent.Input(
        "latent_image",
        tooltip="An Empty Latent Image: its size is the size of the images, its batch size how many are generated "
        "at once.",
    )


def found_outputs() -> list[io.Output]:
    """Return what a search for a concept gives."""
    return [
        CONCEPT.Output(
            display_name="concept", tooltip="For the custom_concept of a Concept Detector, or Save Concept."
        ),
        io.Image.Output(
            display_name="report", tooltip="An image: where it is detected, its features, and how well it was found."
        ),
        io.String.Output(display_name="summary", tooltip="The same in words, with a warning if it failed."),
    ]
