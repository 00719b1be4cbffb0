"""Look at single latents: when they fire, where, and which prompts excite them most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..sae_models.finding import mean_latents
from ..sae_models.loaded import LoadedSAE
from ..sae_models.observing import TIMESTEPS
from ..sae_models.scoring import score_latents
from . import charts
from .capture import FiredLatents
from .collecting import Observed, encode, look
from .reports import latent_heat

SHOWN_PROMPTS = 4
LOOKS = 5  # noise levels at which a given picture is looked at


@dataclass(frozen=True, eq=False)
class Given:
    """A picture to look at beside the prompts' own.

    Attributes:
        picture: [H, W, 3].
        calls: what fired in it, noised to several timesteps.
    """

    picture: Tensor
    calls: list[FiredLatents]


def look_at_picture(model: ModelPatcher, clip: Any, vae: Any, sae: LoadedSAE, image: Tensor, seed: int) -> Given:
    """Noise a picture [1, H, W, 3] to several timesteps and note what fires, without a prompt."""
    timesteps = [TIMESTEPS * (i + 0.5) / LOOKS for i in reversed(range(LOOKS))]
    (calls,) = look(model, sae, encode(clip, ""), vae.encode(image[..., :3]), timesteps, seed)
    return Given(image[0, ..., :3], calls)


def mean_of(calls: Sequence[FiredLatents], num_latents: int) -> Tensor:
    """Return the mean activation of every latent over patches and calls of one picture, [L]."""
    values, indices = (torch.cat([getattr(call, part)[0] for call in calls]) for part in ("values", "indices"))
    return mean_latents(values, indices, num_latents)


def choose(seen: Observed, num_latents: int, count: int, given: Given | None = None) -> list[int]:
    """Return the latents that are strongest in a given picture, or in some drawn one, against the (other) drawn ones.

    Strong is SAeUron's score, with one picture for a concept.
    """
    means = torch.stack([mean_of(calls, num_latents) for calls in seen.fired])
    if given is not None:
        means = torch.cat([mean_of(given.calls, num_latents)[None], means])
    rows = range(1) if given is not None or len(means) == 1 else range(len(means))
    if len(means) == 1:
        return means[0].topk(count).indices.tolist()
    scores = torch.stack([score_latents(means[:, None], row)[0] for row in rows])
    return scores.amax(0).topk(count).indices.tolist()


def latent_pictures(
    seen: Observed,
    pictures: Tensor,
    prompts: Sequence[str],
    latents: Sequence[int],
    names: Mapping[int, str],
    num_latents: int,
    given: Given | None = None,
) -> tuple[Tensor, list[str]]:
    """Draw one picture a latent, and say the same in a line.

    Args:
        seen, pictures, prompts: what was drawn: what fired, the decoded pictures [N, H, W, 3], and of which prompts.
        latents: indices.
        names: what people call some of them.
        num_latents: L of the SAE.
        given: a picture to show first, if there is one.

    Returns:
        [n, H, W, 3], and n lines.
    """
    sheets, lines = [], []
    for latent in latents:
        heats = [latent_heat(calls, latent, num_latents) for calls in seen.fired]
        order = sorted(range(len(prompts)), key=lambda i: -float(heats[i].mean()))
        title = f"latent {latent}" + (f": {names[latent]}" if latent in names else "")
        share = sum(float((heat > 0).float().mean()) for heat in heats) / len(heats)
        best = order[0]
        lines.append(
            f"{title}: most in '{prompts[best]}' (mean {float(heats[best].mean()):.3g}); in {share:.1%} of places"
        )
        shown = [(pictures[i], heats[i], f"{prompts[i]}: {float(heats[i].mean()):.3g}") for i in order[:SHOWN_PROMPTS]]
        if given is not None:
            shown.insert(0, (given.picture, latent_heat(given.calls, latent, num_latents), "your picture"))
        highest = max(float(heat.max()) for _, heat, _ in shown) or 1.0
        steps = charts.curve(*over_steps(seen, latent, num_latents))
        rows = [
            charts.row([charts.label(f"{title}\n\nfires in {share:.1%} of all places"), steps]),
            charts.row([charts.label("pictures that excite it most"), *(charts.tile(p) for p, _, _ in shown)]),
            charts.row([charts.label("where"), *(charts.tile(p, heat / highest) for p, heat, _ in shown)]),
            charts.row([charts.label("", 56), *(charts.caption(text) for _, _, text in shown)]),
        ]
        sheets.append(charts.column(rows))
    return torch.cat(sheets), lines


def over_steps(seen: Observed, latent: int, num_latents: int) -> tuple[list[float], list[float]]:
    """Return the timesteps of the run and the mean activation of a latent at each, over all pictures."""
    total: dict[float, list[float]] = {}
    for calls in seen.fired:
        for call in calls:
            total.setdefault(call.timestep, []).append(float(latent_heat([call], latent, num_latents).mean()))
    timesteps = sorted(total)
    return timesteps, [sum(total[t]) / len(total[t]) for t in timesteps]
