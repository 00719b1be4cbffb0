"""Names and sizes of the shipped model and its SAEs, for tests: as the pack has them, or asked of the model."""

import runpy
from typing import Any

import torch
from load import ROOT

_SIZES = runpy.run_path(str(ROOT / "demo_model" / "sizes.py"))
_SHIPPED = runpy.run_path(str(ROOT / "sae_models" / "shipped.py"))

SIDE, GRID, FACTOR = (_SIZES[name] for name in ("SIDE", "GRID", "FACTOR"))
SITE, MIDDLE = _SHIPPED["DEFAULT"], "middle_block.1"
FILE_NAME, MIDDLE_FILE_NAME = (_SHIPPED["file_name"](hookpoint) for hookpoint in (SITE, MIDDLE))
SAE_FILE, MIDDLE_FILE = (f"shipped/{name}" for name in (FILE_NAME, MIDDLE_FILE_NAME))

# For tests that need a UNet and no image to look at: a quarter of the work. In pixels, and in cells of the latent.
SMALL_SIDE = SIDE // 2
SMALL = (GRID // 2, GRID // 2)


def latents(count: int = 1, size: tuple[int, int] = SMALL) -> torch.Tensor:
    """Return latents as Empty Latent Image makes them, [B, 4, *size]."""
    return torch.zeros(count, _SIZES["LATENT_CHANNELS"], *size)


def shapes(model: Any, size: tuple[int, int] = SMALL) -> dict[str, tuple[int, int, int]]:
    """Return the shape (C, H, W) of what each block of the UNet gives out for latents of some size."""
    from concept_erasure.demo_model.text_encoder import LENGTH, WIDTH
    from concept_erasure.unet.blocks import hookpoints

    unet, found = model.model.diffusion_model, {}
    hooks = []
    for path in hookpoints(model):

        def note(module: Any, inputs: Any, output: torch.Tensor, path: str = path) -> None:
            found[path] = tuple(output.shape[1:])

        hooks.append(unet.get_submodule(path).register_forward_hook(note))
    try:
        with torch.inference_mode():
            unet(latents(1, size), torch.tensor([500.0]), context=torch.zeros(1, LENGTH, WIDTH))
    finally:
        for hook in hooks:
            hook.remove()
    return found
