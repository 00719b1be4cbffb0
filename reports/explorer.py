"""Look at single latents: when they fire, where, and which prompts or pictures excite them most."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..finding.labelling import TIMESTEPS
from ..finding.selection import mean_latents
from ..sae_models.loaded import LoadedSAE
from ..sae_models.scoring import score_latents
from ..unet.capture import FiredLatents
from ..unet.sampling import Observed, look_at_each
from . import charts
from .finder_report import latent_heat

SHOWN_PICTURES = 4
LOOKS = 5  # noise levels at which a given picture is looked at


@dataclass(frozen=True, eq=False)
class Example:
    """A picture, and what fired in it.

    Attributes:
        picture: [H, W, 3] in 0..1.
        calls: of the model, each with B = 1.
        caption: its prompt, or the name of its file.
        drawn: whether the model drew it; any other was noised and looked at.
    """

    picture: Tensor
    calls: Sequence[FiredLatents]
    caption: str
    drawn: bool = False


def drawn_examples(seen: Observed, pictures: Tensor, prompts: Sequence[str]) -> list[Example]:
    """Return what was drawn: what fired, the decoded pictures [N, H, W, 3], and of which prompts."""
    return [Example(*each, drawn=True) for each in zip(pictures, seen.fired, prompts, strict=True)]


def look_at_pictures(
    model: ModelPatcher,
    clip: Any,
    vae: Any,
    sae: LoadedSAE,
    pictures: Iterable[tuple[str, Tensor, str]],
    most: int,
    seed: int,
) -> list[Example]:
    """Noise pictures to several timesteps and note what fires.

    Args:
        model, clip, vae: as ComfyUI gives them.
        sae: fits the model.
        pictures: what to call each, the picture [H, W, 3 or more], all of one size, and what it shows, "" if nobody
            says. They are asked for as they are needed.
        most: how many are looked at at once.
        seed: of the noise; the same pictures, as many at once, get the same.
    """
    timesteps = [TIMESTEPS * (i + 0.5) / LOOKS for i in reversed(range(LOOKS))]
    examples: list[Example] = []
    remaining = iter(pictures)
    while batch := list(itertools.islice(remaining, most)):
        latents = vae.encode(torch.stack([picture[..., :3] for _, picture, _ in batch]))
        prompts = [prompt for _, _, prompt in batch]
        fired = look_at_each(model, clip, sae, prompts, latents, timesteps, seed + len(examples) * LOOKS)
        # A folder may hold thousands of pictures, and no more than a tile is shown of any.
        examples += [
            Example(charts.shrunk(picture), calls, name) for (name, picture, _), calls in zip(batch, fired, strict=True)
        ]
    return examples


def mean_of(calls: Sequence[FiredLatents], num_latents: int) -> Tensor:
    """Return the mean activation of every latent over patches and calls of one picture, [L]."""
    values, indices = (torch.cat([getattr(call, part)[0] for call in calls]) for part in ("values", "indices"))
    return mean_latents(values, indices, num_latents)


def choose(examples: Sequence[Example], num_latents: int, count: int, given: Example | None = None) -> list[int]:
    """Return the latents that are strongest in a given picture, or in some example, against the (other) examples.

    Strong is SAeUron's score, with one picture for a concept.
    """
    compared = ([] if given is None else [given]) + list(examples)
    means = torch.stack([mean_of(example.calls, num_latents) for example in compared])
    if len(means) == 1:
        return means[0].topk(count).indices.tolist()
    rows = range(len(means)) if given is None else range(1)
    scores = torch.stack([score_latents(means[:, None], row)[0] for row in rows])
    return scores.amax(0).topk(count).indices.tolist()


def latent_pictures(
    examples: Sequence[Example],
    latents: Sequence[int],
    names: Mapping[int, str],
    num_latents: int,
    given: Example | None = None,
) -> tuple[Tensor, list[str]]:
    """Draw one picture a latent, and say the same in a line.

    Args:
        examples: pictures to try the latents on, at least one.
        latents: indices.
        names: what people call some of them.
        num_latents: L of the SAE.
        given: a picture to show first, if there is one.

    Returns:
        [n, H, W, 3], and n lines.
    """
    sheets, lines = [], []
    for latent in latents:
        heats = [latent_heat(example.calls, latent, num_latents) for example in examples]
        order = sorted(range(len(examples)), key=lambda i: -float(heats[i].mean()))
        title = f"latent {latent}" + (f": {names[latent]}" if latent in names else "")
        share = sum(float((heat > 0).float().mean()) for heat in heats) / len(heats)
        best = order[0]
        lines.append(
            f"{title}: most in '{examples[best].caption}' (mean {float(heats[best].mean()):.3g}); "
            f"in {share:.1%} of places"
        )
        shown = [(examples[i], heats[i]) for i in order[:SHOWN_PICTURES]]
        captions = [f"{example.caption}: {float(heat.mean()):.3g}" for example, heat in shown]
        if given is not None:
            shown.insert(0, (given, latent_heat(given.calls, latent, num_latents)))
            captions.insert(0, given.caption)
        highest = max(float(heat.max()) for _, heat in shown) or 1.0
        steps = charts.curve(*over_steps(examples, latent, num_latents))
        rows = [
            charts.row([charts.label(f"{title}\n\nfires in {share:.1%} of all places"), steps]),
            charts.row([charts.label("pictures that excite it most"), *(charts.tile(e.picture) for e, _ in shown)]),
            charts.row([charts.label("where"), *(charts.tile(e.picture, heat / highest) for e, heat in shown)]),
            charts.row([charts.label("", 56), *map(charts.caption, captions)]),
        ]
        sheets.append(charts.column(rows))
    return torch.cat(sheets), lines


def over_steps(examples: Sequence[Example], latent: int, num_latents: int) -> tuple[list[float], list[float]]:
    """Return timesteps and the mean activation of a latent at each: over drawn pictures, or all if none was drawn."""
    total: dict[float, list[float]] = {}
    for example in [each for each in examples if each.drawn] or examples:
        for call in example.calls:
            total.setdefault(call.timestep, []).append(float(latent_heat([call], latent, num_latents).mean()))
    timesteps = sorted(total)
    return timesteps, [sum(total[t]) / len(total[t]) for t in timesteps]
