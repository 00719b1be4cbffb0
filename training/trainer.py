"""The trainer: parameters, optimiser and what is known about the features, one step at a time.

Method: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093): TopK, decoder rows of unit
norm, and an auxiliary loss that lets dead features explain what the living ones leave over.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..sae_models.formats.files import is_finite
from ..sae_models.sae import SAEConfig, SparseAutoencoder
from . import objective
from .objective import Parameters
from .settings import TrainingSettings
from .sparse import batch_topk_firing, topk_firing
from .team import Team

NAMES = ("encoder", "encoder_bias", "bias", "decoder")
MOMENTS = ("exp_avg", "exp_avg_sq")
# A threshold moves little from step to step; what lies below this share of it hardly ever fires.
FLOOR = 0.8
GAIN_ROWS = 4096
DEFAULTS = TrainingSettings()


class NotFinite(ValueError):
    """The loss is NaN or infinite: the data is damaged, or the learning rate far too high."""


@dataclass
class Outcome:
    """What the last step showed.

    Attributes:
        unexplained: residual variance / variance of the batch; 0 is perfect.
        dead_share: share of features (0..1) that have not fired for ``dead_after`` embeddings.
    """

    unexplained: float = 1.0
    dead_share: float = 0.0


class Trainer:
    """Trains one SAE.

    Args:
        config: sizes; its activation is ``topk``, its input is not normalised and is centred.
        settings: see there; all processes have the same.
        sample: [n, D] embeddings, the same in all processes: where the data is, and how far it spreads.
        team: the processes that train together.

    Raises:
        ValueError: config asks for what this trainer does not do, or the width does not fit.
        NotFinite: the sample holds NaN or infinity.
    """

    def __init__(self, config: SAEConfig, settings: TrainingSettings, sample: Tensor, team: Team | None = None) -> None:
        if (config.activation, config.normalize, config.center) != ("topk", "none", True):
            raise ValueError("training: only centred topk SAEs without normalisation can be trained")
        if sample.ndim != 2 or sample.shape[1] != config.d_in:
            raise ValueError(f"embeddings are {tuple(sample.shape)}, the SAE reads width {config.d_in}")
        if not is_finite(sample):
            raise NotFinite("embeddings hold NaN or infinity")
        self.config, self.settings, self.team = config, settings, team or Team()
        center = sample.float().mean(0)
        # Training happens at unit mean square, so that one learning rate suits every block of every model.
        self.scale = float((sample.float() - center).square().mean().sqrt()) or 1.0
        self.step, self.threshold, self.outcome = 0, 0.0, Outcome()
        device = self.team.device
        self._silent = torch.zeros(config.num_latents, dtype=torch.int64, device=device)
        directions = torch.randn(
            config.num_latents, config.d_in, generator=torch.Generator().manual_seed(settings.seed)
        )
        directions = F.normalize(directions, dim=1).to(device)
        # Starting the encoder as the decoder's transpose leaves far fewer features dead.
        centered = (sample[:GAIN_ROWS].float() - center).to(device) / self.scale
        encoder = directions * _best_gain(centered, directions, config.k, settings.rule)
        values = (encoder, torch.zeros(config.num_latents, device=device), center.to(device) / self.scale, directions)
        self._parameters = Parameters(*(nn.Parameter(value.clone(), requires_grad=False) for value in values))
        fused = device.type in ("cpu", "cuda")
        self._adam = torch.optim.Adam(self._parameters.tensors(), lr=settings.learning_rate, fused=fused)

    @torch.no_grad()
    def advance(self, embeddings: Tensor, labels: Tensor | None = None) -> None:
        """Take one step.

        Args:
            embeddings: this process's share of the batch, [n, D], any floating dtype; n is the same in all.
            labels: [n, C] uint8 for the first C features, or None.

        Raises:
            NotFinite: the loss is; the parameters are what they were before.
        """
        x = embeddings.to(self.team.device).float() / self.scale
        labels = None if labels is None else labels.to(self.team.device)
        dead = (self._silent > self.settings.dead_after).nonzero()[:, 0]
        floor = FLOOR * self.threshold
        found = objective.step(
            self._parameters, x, labels, self.config.k, dead, self.outcome.unexplained, floor, self.settings, self.team
        )
        self._share(found)
        count = found.energies[-1]
        mean = found.energies[: self.config.d_in] / count
        variance = found.energies[-3] - mean.square().sum() * count
        unexplained = float(found.energies[-2] / variance.clamp(min=1e-12))
        if unexplained != unexplained or unexplained == float("inf"):
            raise NotFinite("the loss is no number any more")
        self._apply(found.gradients)
        self._silent += int(count)
        self._silent[found.fired > 0] = 0
        if found.threshold:
            self.threshold += (found.threshold - self.threshold) * max(0.1, 1 / (self.step + 1))
        self.step += 1
        dead_share = float((self._silent > self.settings.dead_after).float().mean())
        self.outcome = Outcome(unexplained, dead_share)

    def _share(self, found: objective.Step) -> None:
        """Add up what all processes found, in one message."""
        if self.team.size == 1:
            return
        parts = [*found.gradients.tensors(), found.fired, found.energies]
        together = self.team.sum(torch.cat([part.flatten() for part in parts]))
        for part, total in zip(parts, together.split([part.numel() for part in parts]), strict=True):
            part.copy_(total.view_as(part))

    def _apply(self, gradients: Parameters) -> None:
        self._adam.param_groups[0]["lr"] = self.settings.rate(self.step, self.config.num_latents)
        for parameter, gradient in zip(self._parameters.tensors(), gradients.tensors(), strict=True):
            parameter.grad = gradient
        self._adam.step()
        self._parameters.decoder.copy_(F.normalize(self._parameters.decoder, dim=1))

    def sae(self) -> SparseAutoencoder:
        """Return the SAE as it is now, with its decoder, float32, on the CPU, in the scale of the data.

        After ``batchtopk`` its activation is ``jumprelu`` with one threshold for all features.
        """
        config = self.config
        if self.settings.rule == "batchtopk":
            config = replace(config, activation="jumprelu", k=0)
        sae = SparseAutoencoder(config, with_decoder=True)
        p = self._parameters
        values = {
            "encoder.weight": p.encoder,
            "encoder.bias": p.encoder_bias * self.scale,
            "decoder_bias": p.bias * self.scale,
            "decoder_weight": p.decoder,
        }
        if sae.threshold is not None:
            values["threshold"] = torch.full_like(p.encoder_bias, self.threshold * self.scale)
        sae.load_state_dict({key: value.detach().cpu() for key, value in values.items()})
        return sae.requires_grad_(False)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all there is to know to go on: tensors, and numbers that JSON can hold."""
        tensors = {"silent": self._silent}
        for name, parameter in zip(NAMES, self._parameters.tensors(), strict=True):
            tensors[name] = parameter.detach()
            for moment in MOMENTS:
                tensors[f"{name}.{moment}"] = self._adam.state[parameter].get(moment, torch.zeros_like(parameter))
        numbers = {
            "step": self.step,
            "scale": self.scale,
            "threshold": self.threshold,
            "unexplained": self.outcome.unexplained,
            "dead_share": self.outcome.dead_share,
        }
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, numbers

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go on from a ``state``.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: it is of another SAE, or damaged.
        """
        self._silent.copy_(tensors["silent"])
        step = torch.tensor(float(numbers["step"]), device=self.team.device if self._adam.defaults["fused"] else "cpu")
        for name, parameter in zip(NAMES, self._parameters.tensors(), strict=True):
            parameter.copy_(tensors[name])
            moments = {moment: torch.empty_like(parameter).copy_(tensors[f"{name}.{moment}"]) for moment in MOMENTS}
            if numbers["step"]:
                self._adam.state[parameter] = {"step": step.clone(), **moments}
        self.step, self.scale, self.threshold = (
            int(numbers["step"]),
            float(numbers["scale"]),
            float(numbers["threshold"]),
        )
        self.outcome = Outcome(float(numbers["unexplained"]), float(numbers["dead_share"]))


def _best_gain(x: Tensor, directions: Tensor, k: int, rule: str) -> float:
    """Return what the encoder must be multiplied by for x, centred, to be explained best before any training.

    Random directions overlap, so k of them at their full projections would overshoot several times over; where a whole
    batch shares its features, embeddings far from the centre get so many that they overshoot more.
    """
    pre = x @ directions.T
    firing = topk_firing(pre, k) if rule == "topk" else batch_topk_firing(pre, k, 0.0, Team())[0]
    reconstruction = firing.times(firing.dots(x, directions).relu_(), directions)
    return float((x * reconstruction).sum() / reconstruction.square().sum().clamp(min=1e-12)) or 1.0


def train(
    embeddings: Tensor,
    config: SAEConfig,
    settings: TrainingSettings = DEFAULTS,
    report: Callable[[int, float], None] | None = None,
) -> SparseAutoencoder:
    """Train an SAE on embeddings that fit into memory.

    Args:
        embeddings: [N, D] patch embeddings of one hookpoint, any floating dtype.
        config: sizes; ``d_in`` must be D.
        settings: see TrainingSettings.
        report: called every 100 steps with the step and the share of variance left unexplained.

    Returns:
        The SAE with its decoder, float32, in the scale of ``embeddings``.

    Raises:
        ValueError: the width does not fit, or the embeddings hold NaN or infinity.
    """
    trainer = Trainer(config, settings, embeddings)
    generator = torch.Generator().manual_seed(settings.seed)
    for step in range(settings.steps):
        rows = torch.randint(len(embeddings), (settings.batch,), generator=generator)
        trainer.advance(embeddings[rows])
        if report is not None and step % 100 == 0:
            report(step, trainer.outcome.unexplained)
    return trainer.sae()
