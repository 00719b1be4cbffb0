"""How to train an SAE."""

from dataclasses import dataclass

RULES = ("topk", "batchtopk")
# At this many features the automatic learning rate is BASE_RATE; it falls with the root of their number.
BASE_LATENTS, BASE_RATE = 1536, 1e-3


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        steps, batch: optimiser steps, and patch embeddings a step over all processes.
        learning_rate: peak of Adam's rate; it rises for 100 steps and decays to zero in the last fifth. 0 chooses
            it by the number of features.
        aux_k: dead features that join the auxiliary reconstruction; 0 turns it off.
        aux_weight: weight of the auxiliary loss.
        dead_after: a feature is dead once it has not fired for this many embeddings.
        seed: of the initialisation and the order of the data.
        bfloat16: choose the features that fire by products in bfloat16, several times faster where the processor has
            it; what they are worth is computed in float32 all the same. ``topk`` only.
        rule: ``topk``: k features fire in each embedding. ``batchtopk``: k on average over a batch (Bussmann et al.
            2024, arXiv 2412.06410); the SAE that results has a threshold instead of a k.
        guide_weight: weight of the guided loss, where labels are given.

    Raises:
        ValueError: a value is outside its range.
    """

    steps: int = 1200
    batch: int = 2048
    learning_rate: float = 1e-3
    aux_k: int = 64
    aux_weight: float = 1 / 32
    dead_after: int = 200_000
    seed: int = 0
    bfloat16: bool = False
    rule: str = "topk"
    guide_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"training: rule = {self.rule!r}; known are {', '.join(RULES)}")
        for name in ("steps", "batch", "dead_after"):
            if getattr(self, name) < 1:
                raise ValueError(f"training: {name} = {getattr(self, name)} is less than 1")
        for name in ("learning_rate", "aux_k", "aux_weight", "guide_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"training: {name} = {getattr(self, name)} is negative or no number")

    def rate(self, step: int, features: int) -> float:
        """Return the learning rate of a step, for an SAE of so many features."""
        peak = self.learning_rate or BASE_RATE * (BASE_LATENTS / features) ** 0.5
        return peak * min(1.0, 5 * (1 - step / self.steps), (step + 1) / 100)
