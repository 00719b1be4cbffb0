"""What the training scripts share: stopping and going on (development only)."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


class TrainingState:
    """Model weights, optimizer moments and step count in one safetensors file.

    Args:
        path: the file; it is replaced as a whole, so an interrupt never leaves half of one.
        model: its parameters and buffers are saved and restored in place.
        optimizer: an Adam-like optimizer over the model's parameters.
    """

    def __init__(self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.path, self.model, self.optimizer = path, model, optimizer
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def save(self, step: int) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for i, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{i}.{name}"] = value
        partial = self.path.with_suffix(".part")
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, partial, {"step": str(step)})
        partial.rename(self.path)

    def load(self) -> int:
        """Restore what was saved and return the next step; 0 where nothing was saved."""
        if not self.path.exists():
            return 0
        with safe_open(self.path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            step = int(file.metadata()["step"])
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        self.model.load_state_dict(weights)
        for i, parameter in enumerate(self.parameters):
            prefix = f"optimizer.{i}."
            moments = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            self.optimizer.state[parameter] = {
                name: value.reshape(parameter.shape).to(parameter) if value.ndim else value
                for name, value in moments.items()
            }
        return step
