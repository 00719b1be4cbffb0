"""Which blocks the model that is there has for an SAE to read, and whether an SAE fits.

Nothing is looked up by the model's name: the blocks are the modules that ComfyUI built, and their diffusers names
come from the configuration that it built them by. So a fine-tune, a pruned UNet or one with more input channels
needs no entry anywhere.
"""

from collections.abc import Iterable

import comfy.utils
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.model_patcher import ModelPatcher

from ..sae_models.loaded import LoadedSAE

# A weight that every block has, by which its two names are found in ComfyUI's map of all weights.
MARK = ".proj_in.weight"


def hookpoints(model: ModelPatcher) -> dict[str, int]:
    """Return the blocks of a model that an SAE can read, path -> width; empty if it is no UNet of this kind."""
    network = model.get_model_object("diffusion_model")
    return {
        path: module.in_channels for path, module in network.named_modules() if isinstance(module, SpatialTransformer)
    }


def text_width(model: ModelPatcher) -> int | None:
    """Return the width of the text embeddings that a model's cross-attention reads; None if it has none."""
    network = model.get_model_object("diffusion_model")
    found = (m.attn2.to_k.in_features for m in network.modules() if hasattr(getattr(m, "attn2", None), "to_k"))
    return next(found, None)


def diffusers_names(model: ModelPatcher) -> dict[str, str]:
    """Return how diffusers calls the blocks of ``hookpoints``, path -> name; empty if that cannot be told.

    ComfyUI's map counts on as many residual blocks in each level as in any other.
    """
    config = dict(getattr(model.model.model_config, "unet_config", None) or {})
    keys = ("num_res_blocks", "channel_mult", "transformer_depth", "transformer_depth_output")
    if not all(isinstance(config.get(key), (list, tuple)) for key in keys) or len(set(config["num_res_blocks"])) != 1:
        return {}
    # It is a count of layers there, and missing where a model is described by hand.
    config["transformer_depth_middle"] = config.get("transformer_depth_middle") or 0
    both = comfy.utils.unet_to_diffusers(config)
    names = {native.removesuffix(MARK): name.removesuffix(MARK) for name, native in both.items() if MARK in name}
    # The map names a middle block even where a pruned model has none.
    return {path: names[path] for path in hookpoints(model) if path in names}


def check_fit(model: ModelPatcher, sae: LoadedSAE, node: str) -> None:
    """Check that the block an SAE reads exists in a model and has its width.

    Args:
        model: at the node's input 'model'.
        sae: the SAE.
        node: display name of the node, for messages.

    Raises:
        ValueError: it does not; the message says what would fit.
    """
    available, names = hookpoints(model), diffusers_names(model)
    wanted, width = sae.config.hookpoint, sae.config.d_in
    if not available:
        kind = type(model.get_model_object("diffusion_model")).__name__
        raise ValueError(
            f"{node}: the model at input 'model' is a {kind}, which has no transformer blocks of a Stable "
            "Diffusion UNet. Connect an SD1.5, SD2.x, SDXL or Canvas checkpoint."
        )
    # Read before the model was known, the name was taken to be that of a UNet with two residual blocks a level.
    said = sae.file.said_block
    if said and wanted in available and names.get(wanted) != said:
        meant = next(
            (path for path, name in names.items() if name == said), "no block" if names else "an unknown block"
        )
        raise ValueError(
            f"{node}: the SAE {sae.name} reads {said}, which in the model at input 'model' is {meant}, and not "
            f"{wanted} as in SD1.5, SD2.x and SDXL: the levels of this model hold other numbers of blocks. If the SAE "
            "was trained for this model, choose the block by the first of its names at input 'hookpoint' of the SAE "
            "Loader; else choose the SAE that was."
        )
    if wanted not in available:
        raise ValueError(
            f"{node}: the SAE {sae.name} reads the block {wanted}, which the model at input 'model' "
            f"does not have. Its blocks: {_listed(available, names)}. Choose the SAE that was trained for this model."
        )
    if available[wanted] != width:
        fitting = {path: size for path, size in available.items() if size == width}
        raise ValueError(
            f"{node}: the SAE {sae.name} reads {width} channels, but the block {wanted} of the model "
            f"at input 'model' has {available[wanted]}. Blocks of that width: {_listed(fitting, names) or 'none'}. "
            "Choose the SAE that was trained for this model, or its block at input 'hookpoint' of the SAE Loader."
        )


def require_blocks(model: ModelPatcher, wanted: Iterable[str]) -> None:
    """Check that a model has the blocks where a Patch Replacer is to replace patches.

    Raises:
        ValueError: it does not; the message lists those it has.
    """
    available = hookpoints(model)
    missing = [path for path in wanted if path not in available]
    if missing:
        raise ValueError(
            f"Patch Replacer: input 'blocks' names {', '.join(missing)}, which the model at input 'model' does not "
            f"have. Its blocks: {_listed(available, diffusers_names(model))}. Choose among them, or another "
            "'replace_at'."
        )


def _listed(blocks: dict[str, int], names: dict[str, str]) -> str:
    both = {path: f"{path} = {names[path]}" if path in names else path for path in blocks}
    return ", ".join(f"{both[path]} ({width})" for path, width in blocks.items())
