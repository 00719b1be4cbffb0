"""How timestep and window of the denoising measure were chosen: ``python dev/host benchmarks.artifacts.choose``.

It prints how many damaged spots (spots.py) each timestep and window finds. Limits and spots are of different tuning
images, and the spots are of other kinds than those that the measure is validated on (deliberate.py).
"""

import argparse

import torch

from ...demo_model import checkpoint
from ...demo_model.vocabulary import STYLES
from ...dev.demo_model import judges
from ..framework.tables import heading, line
from . import both, errors, spots


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    judge = both.fitted(judges.load(), *checkpoint.load())
    images, styles = both.USUAL.images(), both.USUAL.styles
    groups, turn = judge.groups(images, styles), torch.arange(len(images)) // len(STYLES)
    usual, spotted = turn % 2 == 0, turn % 6 == 1
    of_spotted = [style for style, ours in zip(styles, spotted.tolist(), strict=True) if ours]
    kinds = {"untouched": images[spotted]}
    for damage in (*spots.LATENT_DAMAGES, *spots.PIXEL_DAMAGES):
        kinds[damage.__name__] = spots.spotted(images[spotted], of_spotted, damage, judge.vae)
    print(heading("timestep, window", *kinds))
    for timestep in (50, 100, 200, 300):
        maps = {name: judge.missed(shown, timestep) for name, shown in [("usual", images[usual]), *kinds.items()]}
        for window in (1, 2, 3, 5, 8):
            scores = {name: errors.worst(each, window) for name, each in maps.items()}
            limits = both.limits_of(scores["usual"], groups[usual])[groups[spotted]]
            cells = [f"{100 * (scores[name] > limits).float().mean():.0f}" for name in kinds]
            print(line(f"{timestep}, {window}", *cells), flush=True)
