"""Proof of attachment: what an SAE reads and what a replacement writes, bit for bit, at every published hookpoint.

It looks with hooks of its own at the modules of the UNet, not through the pack: at what a block takes in and gives
out before the pack sees it, at what the SAE is given, and at what the next module then takes in.
"""

import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import folder_paths
import torch
from torch import Tensor

from ... import nodes
from ...erasure.record import RunRecord, StepEntry
from ...erasure.replacement import draw_seed, draws_for
from ...nodes import files
from ...nodes.patch_replacer import SAE_BLOCK
from ...sae_models.hookpoints import find
from ...unet.blocks import hookpoints
from .checkpoints import write_sae
from .models import denoise

# The module that runs next on what a block gives; a skip connection may be joined behind its channels.
NEXT = {
    "output_blocks.4.1": "output_blocks.5.0",
    "output_blocks.5.1": "output_blocks.5.2",
    "input_blocks.8.1": "middle_block.0",
    "middle_block.1": "middle_block.2",
    "output_blocks.0.1": "output_blocks.1.0",
    "output_blocks.1.1": "output_blocks.2.0",
}

LATENTS, FIRING = 6, 0.06


@dataclass
class Seen:
    """What was seen at one block in one call of the UNet, all [rows, C, H, W] but read, [patches, C]."""

    taken: Tensor
    given: Tensor
    passed_on: Tensor | None = None
    read: list[Tensor] = field(default_factory=list)


class Watch:
    """Looks at blocks of a UNet from outside."""

    def __init__(self, network: torch.nn.Module, blocks: Sequence[str]) -> None:
        self.seen: dict[str, list[Seen]] = {block: [] for block in blocks}
        self._handles = []
        for block in blocks:
            module, after = network.get_submodule(block), network.get_submodule(NEXT[block])
            # Registered before the pack registers its own, so it is called first.
            self._handles.append(module.register_forward_hook(self._at(block)))
            self._handles.append(after.register_forward_pre_hook(self._behind(block)))

    def _at(self, block: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            self.seen[block].append(Seen(inputs[0].clone(), output.clone()))

        return hook

    def _behind(self, block: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            last = self.seen[block][-1]
            last.passed_on = inputs[0][:, : last.given.shape[1]].clone()

        return hook

    def spy(self, block: str, sae: Any) -> None:
        """Note what an SAE of the pack is given."""
        center = sae.module.center

        def noting(x: Tensor) -> Tensor:
            self.seen[block][-1].read.append(x.clone())
            return center(x)

        sae.module.center = noting

    def close(self) -> None:
        """Stop looking."""
        for handle in self._handles:
            handle.remove()


def load_saes(folder: Path, model: Any, published: Sequence[tuple[str, str]], latents: int) -> dict[str, Any]:
    """Write the SAEs and load them through the SAE Loader, which finds block and kind itself; by block."""
    widths = hookpoints(model)
    for block, reads in published:
        write_sae(folder, block, widths[find(block)], reads, latents)
    paths = ([str(folder)], set(files.EXTENSIONS))
    known = folder_paths.folder_names_and_paths.get("sae")
    folder_paths.folder_names_and_paths["sae"] = paths
    folder_paths.filename_list_cache.pop("sae", None)
    try:
        names = [name for name in files.names() if not name.startswith(files.SHIPPED_PREFIX)]
        loaded = [nodes.SAELoader.execute(name).args[0] for name in names]
    finally:
        folder_paths.filename_list_cache.pop("sae", None)
        if known is not None:
            folder_paths.folder_names_and_paths["sae"] = known
    by_block = {sae.config.hookpoint: sae for sae in loaded}
    for block, reads in published:
        if by_block[find(block)].config.reads != reads:
            raise AssertionError(f"{block} is not read as {reads}")
    return by_block


def as_read(seen: Seen, reads: str) -> Tensor:
    """Return what an SAE is to be given: [rows, patches, C]."""
    return (seen.given if reads == "output" else seen.given - seen.taken).flatten(2).transpose(1, 2)


def some_features(sae: Any, patches: Tensor) -> list[int]:
    """Pick latents that each fire in a few of the patches [N, C].

    Several, because replacement at an earlier block shifts what fires here; few patches, so that it does so little.
    """
    share = (sae.module.encode_dense(patches.float()) > 0).float().mean(0)
    order = (share - FIRING).abs().argsort()[:LATENTS]
    if not 0 < share[order[0]] < 0.5:
        raise AssertionError("no latent tells patches apart; take another seed")
    return order.tolist()


def put_on(model: Any, sae: Any, latents: Sequence[int], sensitivity: float, mode: str) -> tuple[Any, Any]:
    """Attach through the Concept Detector and the Patch Replacer: (model, record)."""
    text = ", ".join(map(str, latents))
    detection = nodes.ConceptDetector.execute(sae, "none", sensitivity, 0.0, 1.0, text, "union").args[0]
    return nodes.PatchReplacer.execute(model, detection, mode, SAE_BLOCK, 1.0, "positive", 0, "", "may change").args


def prove(
    model: Any,
    positive: Any,
    negative: Any,
    size: tuple[int, int],
    published: Sequence[tuple[str, str]],
    steps: int = 1,
    latents: int = 0,
    say: Callable[[str], object] = print,
) -> int:
    """Check every published hookpoint of a model.

    Args:
        model: as the checkpoint loader gave it.
        positive, negative: conditionings.
        size: (height, width) of the latent image.
        published: (diffusers path, what it reads).
        steps: sampling steps.
        latents: of each SAE; 0 for as many as the published ones have.
        say: what to do with a line of the report.

    Returns:
        how many patches were replaced.

    Raises:
        AssertionError: something is not as it must be.
    """
    network = model.model.diffusion_model
    noise = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(1))
    key = zlib.crc32(torch.cat([noise, torch.zeros_like(noise)], 1).numpy().tobytes())
    with tempfile.TemporaryDirectory() as folder:
        saes = load_saes(Path(folder), model, published, latents)
        watch = Watch(network, list(saes))
        try:
            bare = denoise(model, noise, positive, negative, steps)
            first = {block: seen[0] for block, seen in watch.seen.items()}
            for seen in watch.seen.values():
                seen.clear()
            silent, loud, records = model, model, {}
            for block, sae in saes.items():
                chosen = some_features(sae, as_read(first[block], sae.config.reads).flatten(0, 1))
                silent, _ = put_on(silent, sae, chosen, 0.0, "random")
                loud, records[block] = put_on(loud, sae, chosen, 1.0, "random")
            expect(torch.equal(denoise(silent, noise, positive, negative, steps), bare), "neutral is exact")
            say("neutral: the latents equal those of the bare model bit for bit")
            for block, sae in saes.items():
                watch.seen[block].clear()
                watch.spy(block, sae)
            changed = denoise(loud, noise, positive, negative, steps)
            expect(bool(torch.isfinite(changed).all()) and not torch.equal(changed, bare), "erasure acts")
            replaced = 0
            for block, sae in saes.items():
                replaced += check_block(block, sae, watch.seen[block], records[block].latest, key, say)
        finally:
            watch.close()
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())
    expect(hooks == 0, "no hook is left behind")
    return replaced


def check_block(
    block: str, sae: Any, seen: Sequence[Seen], run: RunRecord, key: int, say: Callable[[str], object]
) -> int:
    """Check one block over all calls of a run; ``key`` names the image. Return how many patches were replaced."""
    entries = [entry for entry in run.entries.values() if entry.hookpoint == block]
    expect(len(entries) == len(seen) > 0, f"{block}: one entry a call")
    first = max(run.sigmas())
    total, patches = 0, 0
    for step, (one, entry) in enumerate(zip(seen, entries, strict=True), 1):
        assert one.passed_on is not None
        # Of the two prompts only the positive one is read; it must be among them exactly once.
        wanted = as_read(one, sae.config.reads)
        rows = [row for row in range(len(wanted)) if torch.equal(wanted[row], one.read[0])]
        expect(len(one.read) == 1 and len(rows) == 1, f"{block}: the SAE reads what the block took in and gave out")
        expected = one.given.clone().flatten(2)
        moved, sources = chosen_sources(entry, draw_seed(0, key, block, first, step))
        expected[rows[0]][:, moved] = one.given.flatten(2)[rows[0]][:, sources]
        total, patches = total + len(moved), patches + entry.mask.numel()
        expect(
            torch.equal(one.passed_on.flatten(2), expected),
            f"{block}: source patches replace, and all else is untouched",
        )
    expect(total > 0, f"{block}: some patches are replaced")
    kind, grid = str(seen[0].given.dtype), tuple(seen[0].given.shape[-3:])
    say(f"{block} ({sae.config.reads}, {grid}, {kind}): {total} of {patches} patches replaced, all as chosen")
    return total


def chosen_sources(entry: StepEntry, seed: int) -> tuple[Tensor, Tensor]:
    """Say again, from the mask and the seed alone, which patches are replaced, and by which: places, int [n] each."""
    mask = entry.mask[0].flatten()
    moved, free = mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]
    if not len(free):
        return free, free
    draws = draws_for([seed], len(mask))[0, moved]
    return moved, free[(draws * len(free)).long().clamp(max=len(free) - 1)]


def expect(holds: bool, what: str) -> None:
    """Raise if something does not hold."""
    if not holds:
        raise AssertionError(what)
