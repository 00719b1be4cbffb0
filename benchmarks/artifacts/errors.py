"""Two errors of an image that know nothing of each other, and nothing of the judges of objects.

* **round trip**: what is lost when the image goes through the VAE once more, in its worst window of an eighth of its
  sides. A decoder handed values outside the latents' distribution paints what the encoder cannot express.
* **denoising**: a little noise is added to the image's latents, and the unedited model, without a prompt, says what it
  was; its mean squared error. The model is wrong about what it would not generate itself.
"""

from typing import Any

import comfy.model_management
import torch
import torch.nn.functional as F
from torch import Tensor

ROUND_TRIP, DENOISING = "round trip", "denoising"
QUANTILE = 0.95  # of unedited images lies the limit; so 5 % of them are false alarms by construction
NOISES = 6


def round_trip(vae: Any, images: Tensor, latents: Tensor) -> Tensor:
    """Return what the VAE loses of images [N, H, W, 3] in 0..1 with these latents, [N]."""
    again = vae.decode(latents).to(images)
    window = images.shape[1] // 8
    lost = F.avg_pool2d((again - images).square().mean(-1)[:, None], window, stride=window // 2).sqrt()
    return lost.flatten(1).amax(1)


def denoising(model: Any, empty: Tensor, latents: Tensor, timestep: int) -> Tensor:
    """Return the mean squared error of the noise that the model sees in each cell of latents, [N, H, W].

    Args:
        model: unedited.
        empty: the encoding of no prompt.
        latents: [N, 4, H, W].
        timestep: how much noise is added.
    """
    comfy.model_management.load_models_gpu([model])
    inner = model.model
    sigma = inner.model_sampling.sigma(torch.tensor(float(timestep)))
    clean, errors = inner.process_latent_in(latents), []
    for i in range(NOISES):
        noise = torch.randn(clean.shape[1:], generator=torch.Generator().manual_seed(i // 2))
        noisy = clean + (1 - 2 * (i % 2)) * sigma * noise  # each noise with both signs
        found = inner.apply_model(noisy, sigma.expand(len(clean)), c_crossattn=empty.expand(len(clean), -1, -1))
        errors.append(((found - clean) / sigma).square().mean(1))
    return torch.stack(errors).mean(0)


def worst(errors: Tensor, window: int) -> Tensor:
    """Return the highest mean of a square window of errors [N, H, W], [N]."""
    return F.avg_pool2d(errors[:, None], window, stride=1).flatten(1).amax(1)
