"""The SAE Trainer's work: check what was asked, run the training under ComfyUI's eyes, and save what came of it."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError
from torch import Tensor

from ...reports.images import to_tensor
from ...sae_models.formats import native
from ...sae_models.loaded import LoadedSAE
from ...sae_models.sae import SAEConfig, SparseAutoencoder
from ...unet.loading import load_sae
from .. import TrainingSettings
from ..session import Session, measure_on
from ..store import StoreError, require_space
from ..team import Team
from ..trainer import NotFinite
from .alternating import SAETraining, Size
from .collection import HELD, Collector, fingerprint, levels
from .display import Display, draw
from .folder import PictureError
from .request import NODE, Request, chosen

UNFINISHED = "_unfinished"  # added to the name of an SAE whose training was interrupted


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of it: the first hookpoint's SAE, the curves [1, H, W, 3] of all, and some words."""

    sae: LoadedSAE
    curves: Tensor
    summary: str


def train_for_model(
    model: ModelPatcher,
    clip: Any,
    request: Request,
    target: Callable[[str], Path],
    state: Callable[[str, str], Path],
    vae: Any = None,
) -> Trained:
    """Train an SAE for each hookpoint and save it.

    Args:
        model, clip: from a checkpoint.
        request: see there.
        target: from what is added to the artist's name to the file to write; raises ValueError if it must not be.
        state: from a name and a digest of everything that makes a difference to the folder of the run's state.
        vae: of the checkpoint, where pictures of a folder are to be noised.

    Raises:
        ValueError: the request cannot be fulfilled, or training had to stop; the message says what to do.
    """
    widths = chosen(model, request.hookpoints)
    pictures = request.to_sample(min(widths.values()))
    if not levels(model, pictures):
        raise ValueError(
            f"{NODE}: none of the {pictures.steps} steps lies between 'start_percent' and 'end_percent'. Set them "
            "further apart, or raise 'steps'."
        )
    targets = {h: target(f"_{h}" if len(widths) > 1 else "") for h in widths}
    device = comfy.model_management.get_torch_device()
    team = Team(device if device.type == "cuda" else "cpu")
    size = Size(request.latents, request.k)
    _check_size(size, widths)
    settings = _settings(request, team.device, min(widths.values()))
    family = type(model.model.model_config).__name__ if hasattr(model.model, "model_config") else ""
    folder = state(next(iter(targets.values())).stem, _digest(model, request, widths, settings))
    if team.device.type == "cuda":
        comfy.model_management.free_memory(sum(map(size.bytes_to_train, widths.values())), device)
    # Parameters made in ComfyUI's inference mode could not be changed outside it.
    with torch.inference_mode(False), torch.no_grad(), _advice(folder):
        for hookpoint, path in targets.items():
            require_space(path.parent, 4 * widths[hookpoint] * size.for_width(widths[hookpoint])[0])
        collector = Collector(model, clip, pictures, widths, folder, request.limit, family, vae)
        training = SAETraining(collector, widths, size, settings, team)
        try:
            training.run(Display(training))
        except BaseException:
            _save_unfinished(training, targets)
            raise
        return _finish(training, targets, folder, request.keep)


def _check_size(size: Size, widths: dict[str, int]) -> None:
    """Check before anything is collected that such SAEs can be."""
    for hookpoint, width in widths.items():
        try:
            SAEConfig(width, *size.for_width(width), hookpoint)
        except ValueError as error:
            raise ValueError(
                f"{NODE}: {error} (inputs 'features' and 'k'). Choose others, or 0 for the usual."
            ) from error


def _settings(request: Request, device: torch.device, width: int) -> TrainingSettings:
    """Return how to train on a device; what is faster there changes no result but by rounding."""
    if device.type == "cuda":
        half = torch.cuda.is_bf16_supported()
    else:
        half = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
    return TrainingSettings(
        steps=request.usual(width)[1],
        batch=2048 if device.type == "cpu" else 4096,
        learning_rate=0.0,
        aux_k=min(256, max(1, width // 2)),
        seed=request.seed % 2**63,
        bfloat16=half,
        rule=request.rule,
    )


def _digest(model: ModelPatcher, request: Request, widths: dict[str, int], settings: TrainingSettings) -> str:
    """Return a name for everything that makes a difference to the result but the number of training steps."""
    asked = {k: v for k, v in vars(request).items() if k not in ("latent", "keep", "train_steps", "folder")}
    asked["pictures"] = request.usual(min(widths.values()))[0]
    if request.folder:
        asked["folder"] = [picture.stamp for picture in request.folder]
    about = [asked, list(request.latent.shape), fingerprint(model, list(widths)), widths, settings.batch]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:10]


@contextmanager
def _advice(folder: Path) -> Iterator[None]:
    """Say what to do about what can go wrong while training."""
    try:
        yield
    except StoreError as error:
        raise ValueError(
            f"{NODE}: {error}. What was trained so far is saved; run again with the same settings to go on. If it was "
            "the model that gave NaN (input 'model'), start ComfyUI with --force-fp32 or --bf16-unet; if too few "
            "patches were collected, raise 'images' or 'store_gb'; to begin anew, delete "
            f"{folder}."
        ) from error
    except PictureError as error:
        raise ValueError(f"{NODE}: {error} (input 'image_folder'). Remove or replace it and run again.") from error
    except NotFinite as error:
        raise ValueError(
            f"{NODE}: {error}. What was trained before is saved. Delete {folder} and train again, with other "
            "'prompts' or 'seed'."
        ) from error


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.stem}{UNFINISHED}.safetensors")


def _save_unfinished(training: SAETraining, targets: dict[str, Path]) -> None:
    """Save what there is beside where the SAE will be, so that an interrupted run is of use."""
    for hookpoint, session in training.sessions.items():
        if session.step:
            with suppress(StoreError):  # why the run ended matters more
                _write(_unfinished(targets[hookpoint]), session.sae(), session.facts(None))


def _write(path: Path, sae: SparseAutoencoder, facts: Mapping[str, Any]) -> None:
    """Write an SAE.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        require_space(path.parent, sum(tensor.numel() * 2 for tensor in sae.state_dict().values()))
        native.save(path, sae, facts=facts)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"{path} cannot be written ({reason}). See that its disk is there and has room") from error


def _finish(training: SAETraining, targets: dict[str, Path], folder: Path, keep: bool) -> Trained:
    lines = []
    for hookpoint, session in training.sessions.items():
        path = targets[hookpoint]
        lines.append(_save(session, path, training.source.store(hookpoint) / HELD))
        _unfinished(path).unlink(missing_ok=True)
    curves = to_tensor(draw(training))[None]
    if keep:
        lines.append(f"The collected patches are in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    first = next(iter(targets.values()))
    return Trained(load_sae(str(first), first.name), curves, "\n".join(lines))


def _save(session: Session, path: Path, held: Path) -> str:
    """Save one SAE; return what to say about it."""
    sae = session.sae()
    quality = measure_on(held, sae)
    _write(path, sae, session.facts(quality))
    said = f"Saved {path}: {sae.config.num_latents} features after {session.step} steps"
    if quality is None:
        return said
    return (
        f"{said}; on patches it has not seen: explained variance {quality.explained_variance:.3f}, dead features "
        f"{quality.dead_share:.1%}"
    )
