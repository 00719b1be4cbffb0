"""What the training scripts share: stopping and going on (development only)."""

import functools
import time
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ...sae_models.formats.files import write_safetensors


@functools.cache
def fast_dtype() -> torch.dtype:
    """Return bfloat16 where this machine multiplies matrices faster in it than in float32, else float32.

    Processors without its instructions emulate it, several times slower.
    """

    def seconds(dtype: torch.dtype) -> float:
        a = torch.randn(768, 768, dtype=dtype)
        a @ a
        started = time.perf_counter()
        for _ in range(5):
            a @ a
        return time.perf_counter() - started

    return torch.bfloat16 if seconds(torch.bfloat16) < 0.8 * seconds(torch.float32) else torch.float32


def training_precision() -> torch.autocast:
    """Return the context to train in on this machine: see `fast_dtype`."""
    return torch.autocast("cpu", torch.bfloat16, enabled=fast_dtype() is torch.bfloat16)


def as_matrix(weight: Tensor) -> Tensor:
    """View a weight as [outputs, inputs], a channels-last convolution's kernel positions among the inputs."""
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else weight


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return about the nearest matrices with orthonormal rows, [B, m, n] with m at most n, in the fastest dtype here.

    A Newton-Schulz iteration with the coefficients of Jordan, "Muon: An optimizer for hidden layers", 2024.
    """
    x = matrices.to(fast_dtype())
    x = x / (torch.linalg.matrix_norm(x.float(), keepdim=True).to(x.dtype) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal; matrices of one shape are handled at once.

    PyTorch's own takes one matrix at a time, which on a CPU costs as much as the model's two passes.

    Args:
        views: matrices [outputs, inputs].
        rate: scaled so that it means what it means to AdamW.
    """

    def __init__(self, views: list[nn.Parameter], rate: float, momentum: float = 0.95, decay: float = 0.1) -> None:
        super().__init__(views, {"lr": rate, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for view in group["params"]:
                if view.grad is not None:
                    shapes.setdefault(view.shape, []).append(view)
            for views in shapes.values():
                self._move(views, group["lr"], group["momentum"], group["decay"])

    def _move(self, views: list[nn.Parameter], rate: float, momentum: float, decay: float) -> None:
        weights: list[Tensor] = list(views)
        grads = [view.grad for view in views if view.grad is not None]
        for view in views:
            if "momentum_buffer" not in self.state[view]:
                self.state[view]["momentum_buffer"] = torch.zeros_like(view)
        buffers = [self.state[view]["momentum_buffer"] for view in views]
        torch._foreach_lerp_(buffers, grads, 1 - momentum)
        ahead = torch.stack(torch._foreach_lerp(grads, buffers, momentum))
        tall = ahead.shape[1] > ahead.shape[2]
        update = orthogonal(ahead.mT if tall else ahead)
        update = (update.mT if tall else update).to(views[0].dtype)
        torch._foreach_mul_(weights, 1 - rate * decay)
        torch._foreach_add_(weights, list(update.unbind()), alpha=-rate * 0.2 * max(views[0].shape) ** 0.5)


class MuonAdamW:
    """Muon for the weight matrices between layers, AdamW for embeddings, biases and the named rest.

    Args:
        model: its convolutions must be in channels-last layout.
        rate: one learning rate serves both.
        others: how the names of those matrices begin that AdamW keeps, such as the first and last layer.
    """

    def __init__(self, model: nn.Module, rate: float, others: tuple[str, ...]) -> None:
        named = dict(model.named_parameters())
        self.matrices = [p for name, p in named.items() if p.ndim >= 2 and not name.startswith(others)]
        rest = [p for name, p in named.items() if p.ndim < 2 or name.startswith(others)]
        # Views of the same memory: Muon takes matrices alone.
        self.views = [nn.Parameter(as_matrix(p.detach())) for p in self.matrices]
        if any(v.data_ptr() != p.data_ptr() for v, p in zip(self.views, self.matrices, strict=True)):
            raise ValueError("A convolution is not in channels-last layout.")
        adam = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, foreach=True)
        self.parts: list[torch.optim.Optimizer] = [Muon(self.views, rate), adam]

    def set_rate(self, rate: float) -> None:
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate

    def step(self) -> None:
        """Move the weights by the gradients that ``backward`` left on the model's parameters."""
        for view, parameter in zip(self.views, self.matrices, strict=True):
            view.grad = None if parameter.grad is None else as_matrix(parameter.grad)
        for part in self.parts:
            part.step()


class TrainingState:
    """Model weights, optimizer moments and step count in one safetensors file.

    Args:
        path: the file; it is replaced as a whole, so an interrupt never leaves half of one.
        model: its parameters and buffers are saved and restored in place.
        optimizers: their moments are saved and restored too.
    """

    def __init__(self, path: Path, model: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
        self.path, self.model = path, model
        self.moments = [(o.state, p) for o in optimizers for group in o.param_groups for p in group["params"]]

    def save(self, step: int) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for i, (moments, parameter) in enumerate(self.moments):
            for name, value in moments[parameter].items():
                tensors[f"optimizer.{i}.{name}"] = value
        written = {name: value.detach().contiguous() for name, value in tensors.items()}
        write_safetensors(self.path, written, {"step": str(step)})

    def load(self) -> int:
        """Restore what was saved and return the next step; 0 where nothing was saved."""
        self._first, self._started = self._restored(), time.time()
        return self._first

    def say(self, step: int, batch: int, **values: float) -> None:
        """Print values by name after so many steps in all, and samples a second since ``load``."""
        speed = (step - self._first) * batch / (time.time() - self._started)
        said = " ".join(f"{name} {value:.4f}" for name, value in values.items())
        print(f"step {step} {said} {speed:.0f} samples/s", flush=True)

    def _restored(self) -> int:
        if not self.path.exists():
            return 0
        with safe_open(self.path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            step = int(file.metadata()["step"])
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        self.model.load_state_dict(weights)
        for i, (moments, parameter) in enumerate(self.moments):
            prefix = f"optimizer.{i}."
            saved = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            moments[parameter] = {
                name: value.reshape(parameter.shape).to(parameter) if value.ndim else value
                for name, value in saved.items()
            }
        return step
