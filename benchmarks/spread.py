"""Tell how much SAEs of one recipe differ, and whether what their training says tells how well they find.

``python dev/host benchmarks.spread`` trains SAEs that differ only in their seed, and in how long they are trained, on
the same activations of the demo model. With each it finds objects from a word and from one painted image, and prints
explained variance, dead features, and the patch ROC-AUC of what was found in held-out scenes (all timesteps alike).

Images are sampled once for all SAEs: what the block gave is kept, and each SAE encodes that. Otherwise the search is
that of the Concept Finder and of Concept From Mask at their defaults, but for the number of images. SAEs are kept in
``dev/work/spread``.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from ..demo_model import checkpoint
from ..demo_model.vocabulary import OBJECTS
from ..dev.demo_model.activations import Noised, from_generations, from_scenes
from ..dev.demo_model.sampling import SAE_SEEDS, empty_latents
from ..dev.demo_model.train_sae import train_site
from ..finding.search import Gathered, fit_mask, fit_search, gather_by_prompts, gather_in_mask
from ..sae_models.concepts import Concept
from ..sae_models.formats import native
from ..sae_models.loaded import LoadedSAE
from ..sae_models.sparse_codes import encode_sparsely
from ..training import TrainingSettings
from ..unet.capture import FiredFeatures
from ..unet.loading import load_sae
from .finding import BATCH, FROM_MASK, FROM_WORD, SCENES, Model, painted, word_search
from .framework import storage
from .framework.localization import qualities
from .framework.settings import SITE
from .framework.tables import Table, add_json, average

EXPLAINED, DEAD = "explained variance", "dead features %"
AUC = {FROM_WORD: "AUC, from a word", FROM_MASK: "AUC, from a mask"}
LOWEST = {FROM_WORD: "lowest, from a word", FROM_MASK: "lowest, from a mask"}
COLUMNS = (EXPLAINED, DEAD, *(column for way in AUC for column in (AUC[way], LOWEST[way])))


class Tape(nn.Module):
    """Stands for an SAE while images are sampled: keeps the patch embeddings, and answers with their numbers."""

    def __init__(self, like: LoadedSAE) -> None:
        super().__init__()
        self.config = like.config
        self._parts: list[Tensor] = []
        self._rows = 0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each embedding [..., C] one feature, its number: values and indices [..., 1]."""
        flat = x.reshape(-1, x.shape[-1])
        numbers = torch.arange(self._rows, self._rows + len(flat))
        self._parts.append(flat.to("cpu", torch.float16))
        self._rows += len(flat)
        return torch.ones(*x.shape[:-1], 1), numbers.reshape(*x.shape[:-1], 1)

    def played(self, gathered: Gathered, sae: LoadedSAE) -> Gathered:
        """Return what would have fired, had an SAE been there."""
        rows = torch.cat(self._parts)
        parts = [encode_sparsely(sae.module, part.float()) for part in rows.split(20_000)]
        values, indices = (torch.cat([part[i] for part in parts]) for i in (0, 1))

        def seen(call: FiredFeatures) -> FiredFeatures:
            number = call.indices[..., 0].long()
            return FiredFeatures(call.timestep, values[number], indices[number], call.grid)

        return replace(gathered, fired=[[seen(call) for call in calls] for calls in gathered.fired])


def trained(canvas: Model, images: int, steps: Sequence[int], seeds: int) -> dict[tuple[int, int], LoadedSAE]:
    """Train the SAEs that are not on disk yet; return all by number of steps and seed."""
    folder = storage.folder("spread") / storage.stamp(images)
    paths = {(n, seed): folder / f"{n}.{seed}.safetensors" for n in steps for seed in range(seeds)}
    missing = {key: path for key, path in paths.items() if not path.exists()}
    if missing:
        generated = from_generations(*canvas[:2], [SITE], images, SAE_SEEDS[:images], batch=20)[SITE]
    for (n, seed), path in missing.items():
        sae, quality = train_site(SITE, generated, TrainingSettings(steps=n, seed=seed, bfloat16=True))
        facts = {"explained_variance": quality.explained_variance, "dead_share": quality.dead_share}
        path.parent.mkdir(parents=True, exist_ok=True)
        with storage.whole(path) as partial:
            native.save(partial, sae, facts=facts, dtype=torch.float32)
    return {key: load_sae(str(path), path.name) for key, path in paths.items()}


def concepts_of(
    canvas: Model, saes: dict[tuple[int, int], LoadedSAE], way: str, split: str, words: Sequence[str], images: int
) -> dict[tuple[int, int], dict[str, Concept]]:
    """Find every word with every SAE, sampling once a word."""
    found: dict[tuple[int, int], dict[str, Concept]] = {key: {} for key in saes}
    for word in words:
        like = next(iter(saes.values()))
        tape = Tape(like)
        recorder = replace(like, module=tape)  # type: ignore[arg-type]
        search, sampling = word_search(word, images=images)
        asked = painted(canvas, word, SCENES[split], images)
        if way == FROM_WORD:
            gathered = gather_by_prompts(*canvas, recorder, search, empty_latents(BATCH), sampling)
        else:
            gathered = gather_in_mask(canvas[0], canvas[2], recorder, asked)
        print(f"  {way}, {word}: sampled", flush=True)
        for key, sae in saes.items():
            played = tape.played(gathered, sae)
            fitted = fit_search(search, sae, played) if way == FROM_WORD else fit_mask(asked, sae, played)
            found[key][word] = fitted.concept
    return found


def row_of(sae: LoadedSAE, found: dict[str, dict[str, Concept]], noised: Noised) -> dict[str, float]:
    """Return the columns of one SAE: AUC is the mean over objects and timesteps, lowest that of the worst object."""
    facts = sae.file.facts
    row = {EXPLAINED: float(facts["explained_variance"]), DEAD: 100 * float(facts["dead_share"])}
    for way, concepts in found.items():
        each = qualities(sae.module, concepts, noised)[..., 0].mean(0)
        row |= {AUC[way]: float(np.mean(each)), LOWEST[way]: float(np.min(each))}
    return row


def correlation(rows: Sequence[dict[str, float]], column: str) -> str:
    """Say how explained variance and a column rise together over SAEs."""
    found = spearmanr([row[EXPLAINED] for row in rows], [row[column] for row in rows])
    return f"{column}: {found.statistic:.2f} (p {found.pvalue:.2g})"


@torch.no_grad()
def main() -> None:
    """Train, find, and print a row an SAE and one for all of a recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", choices=[*OBJECTS, []], metavar="OBJECT", help="all if left out")
    parser.add_argument("--images", type=int, default=400, help="that the SAEs are trained on")
    parser.add_argument("--steps", nargs="+", type=int, default=[2000], help="of training; a recipe each")
    parser.add_argument("--seeds", type=int, default=5, help="SAEs of each recipe")
    parser.add_argument("--finding-images", type=int, default=0, help="images with the concept; 0 as in the nodes")
    parser.add_argument("--split", choices=list(SCENES), default="reporting")
    parser.add_argument("--scenes", type=int, default=200)
    add_json(parser)
    given = parser.parse_args()
    table = Table("SAE", COLUMNS)
    canvas = checkpoint.load()
    words = given.words or list(OBJECTS)
    noised = from_scenes(*canvas, [SITE], SCENES[given.split][: given.scenes])[SITE]
    unseen = [word for word in words if not (noised.masks[OBJECTS.index(word)] >= 0.5).any()]
    if unseen:
        parser.error(f"--scenes: none of {given.scenes} scenes shows {', '.join(unseen)}; give more")
    saes = trained(canvas, given.images, given.steps, given.seeds)
    found = {way: concepts_of(canvas, saes, way, given.split, words, given.finding_images) for way in AUC}
    rows = {key: row_of(sae, {way: found[way][key] for way in AUC}, noised) for key, sae in saes.items()}
    for steps in given.steps:
        own = {seed: row for (n, seed), row in rows.items() if n == steps}
        for seed, row in own.items():
            table.add(f"{steps} steps, seed {seed}", *(round(row[column], 3) for column in COLUMNS))
        table.add(f"{steps} steps, mean", *(average([row[column] for row in own.values()]) for column in COLUMNS))
    told = "; ".join(correlation(list(rows.values()), AUC[way]) for way in AUC)
    table.write(
        given.json,
        f"Trained on the same {given.images} images; found: {', '.join(words)}.",
        f"Rank correlation with explained variance over all SAEs: {told}.",
        split=given.split,
        finding_images=given.finding_images,
        scenes=given.scenes,
    )
