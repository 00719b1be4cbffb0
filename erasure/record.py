"""The record of one sampling run: which patches were detected and replaced at each step. All of it is on the CPU."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ..unet.calls import NEGATIVE, POSITIVE
from .refinement import resize_mask
from .statistics import Statistics


@dataclass(frozen=True, eq=False)
class StepEntry:
    """What happened at one block, in one conditioning, at one noise level.

    Attributes:
        hookpoint: the block.
        role: POSITIVE or NEGATIVE.
        sigma, timestep: the noise level, both ways.
        mask: detected patches, bool [B, H, W].
        replaced: number of replaced patches of each image.
        images: places of the B images in the run's batch; None if they are unknown or no whole images.
        looked: False if the block was only edited, by a mask that another block gave, perhaps a step before.
        before, after: its patch embeddings in numbers, as the block gave them and as they were passed on.
    """

    hookpoint: str
    role: str
    sigma: float
    timestep: float
    mask: Tensor
    replaced: tuple[int, ...]
    images: tuple[int, ...] | None
    looked: bool = True
    before: Statistics | None = None
    after: Statistics | None = None

    def of(self, images: Sequence[int]) -> "StepEntry | None":
        """Return the same of some of the run's images, numbered anew; None if it knows nothing of them."""
        if self.images is None:
            return None
        places = [(new, self.images.index(old)) for new, old in enumerate(images) if old in self.images]
        if not places:
            return None
        rows = [row for _, row in places]
        before, after = (None if each is None else each.of(rows) for each in (self.before, self.after))
        replaced = tuple(self.replaced[row] for row in rows)
        known = tuple(new for new, _ in places)
        return replace(self, mask=self.mask[rows], replaced=replaced, images=known, before=before, after=after)

    @classmethod
    def joined(cls, parts: "Sequence[StepEntry]", choice: Sequence[int]) -> "StepEntry | None":
        """Take each image from the entry of one of several passes; None if they do not fit together.

        Args:
            parts: of the same block, conditioning and noise level, one a pass.
            choice: which pass each image of the run is taken from.
        """
        first = parts[0]
        if first.images is None or any((p.images, p.mask.shape) != (first.images, first.mask.shape) for p in parts):
            return None
        rows = [choice[image] for image in first.images]
        mask = torch.stack([parts[number].mask[row] for row, number in enumerate(rows)])
        replaced = tuple(parts[number].replaced[row] for row, number in enumerate(rows))
        before, after = (
            None if any(each is None for each in both) else Statistics.joined([s for s in both if s is not None], rows)
            for both in ([part.before for part in parts], [part.after for part in parts])
        )
        return replace(first, mask=mask, replaced=replaced, before=before, after=after)


@dataclass(frozen=True, eq=False)
class Kept:
    """What is known of a run whose rest was kept, see ``keep``.

    Attributes:
        unedited: record of the pass without edits.
        region: where the image may have changed, bool [B, H, W] on the latent's grid.
        passes: how often the run was sampled.
        filled: whether a fill was drawn into the region; else patches were replaced.
    """

    unedited: "RunRecord"
    region: Tensor
    passes: int
    filled: bool = False

    def of(self, images: Sequence[int]) -> "Kept":
        """Return the same of some of the images."""
        return replace(self, unedited=self.unedited.of(images), region=self.region[list(images)])

    def share(self, image: int | None = None) -> float:
        """Return which share (0..1) of an image, or of all of them, the region is."""
        return float((self.region if image is None else self.region[image]).float().mean())

    def sentence(self, remaining: Sequence[bool]) -> str:
        """Return where the concept was found, for a person.

        Args:
            remaining: whether it still is, by image.
        """
        changed = self.region.flatten(1).any(1).tolist()
        found = [str(i + 1) for i, either in enumerate(zip(changed, remaining, strict=True)) if any(either)]
        if not found:
            return "The concept was not found in any image, so nothing was changed."
        return (
            f"The concept was found in image {_listed(found)} of {len(self.region)}; the rest is as without this node."
        )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


@dataclass(eq=False)
class RunRecord:
    """One sampling run.

    Attributes:
        number: 1 for the first run of this Patch Replacer since it was executed.
        seed: noise seed of the run, None if the sampler gave none.
        image_keys: name the starting noise of each image.
        latent_size: (height, width) of the latent image.
        entries: by (hookpoint, key of the chunk, sigma); a repeated call overwrites its entry.
        notes: what could not be done, and how often.
        fingerprints: of each image that the sampler returned, by dtype.
        concepts: in which share of the steps (0..1) each concept was found in each patch, before masks are refined,
            name -> [B, H, W].
        kept: what else is known if the rest of the image was kept; None if it was not.
        remaining: whether the concept is still found in an image at the end; none if that is not known.
    """

    number: int
    seed: int | None
    image_keys: tuple[int, ...]
    latent_size: tuple[int, int]
    entries: dict[tuple[str, Hashable, float], StepEntry] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    fingerprints: list[dict[torch.dtype, int]] = field(default_factory=list)
    concepts: dict[str, Tensor] = field(default_factory=dict)
    kept: Kept | None = None
    remaining: tuple[bool, ...] = ()

    @property
    def images(self) -> int:
        """Batch size."""
        return len(self.image_keys)

    def of(self, images: Sequence[int]) -> "RunRecord":
        """Return the record of some of the images, in the given order."""
        found = {key: entry.of(images) for key, entry in self.entries.items()}
        return RunRecord(
            self.number,
            self.seed,
            tuple(self.image_keys[i] for i in images),
            self.latent_size,
            {key: entry for key, entry in found.items() if entry is not None},
            self.notes,
            [self.fingerprints[i] for i in images] if self.fingerprints else [],
            {name: heat[list(images)] for name, heat in self.concepts.items()},
            None if self.kept is None else self.kept.of(images),
            tuple(self.remaining[i] for i in images) if self.remaining else (),
        )

    @classmethod
    def joined(cls, parts: "Sequence[RunRecord]", choice: Sequence[int]) -> "RunRecord":
        """Make one record of the passes over a run.

        Args:
            parts: their records, first pass to last.
            choice: which pass each image is taken from.
        """
        base = parts[max(choice)]
        entries: dict[tuple[str, Hashable, float], StepEntry] = {}
        for key, entry in base.entries.items():
            found = [part.entries.get(key, entry) for part in parts]
            entries[key] = StepEntry.joined(found, choice) or entry
        notes: Counter[str] = Counter()
        for part in parts:
            notes |= part.notes
        prints = [parts[number].fingerprints[image : image + 1] for image, number in enumerate(choice)]
        left = [parts[number].remaining[image : image + 1] for image, number in enumerate(choice)]
        return replace(
            base,
            number=parts[0].number,
            entries=entries,
            notes=notes,
            fingerprints=[each for one in prints for each in one],
            remaining=tuple(each for one in left for each in one),
        )

    def is_pass_beside(self, other: "RunRecord") -> bool:
        """Tell whether both are passes of one run: of the same images and prompts, which ComfyUI names anew a run."""
        return self.image_keys == other.image_keys and bool(self.entries.keys() & other.entries.keys())

    @property
    def seen(self) -> "RunRecord":
        """The record that says where the concept was: of the unedited pass if there was one."""
        return self if self.kept is None else self.kept.unedited

    @cached_property
    def steps(self) -> dict[float, list[StepEntry]]:
        """The entries of each noise level, noisiest first."""
        levels: dict[float, list[StepEntry]] = {}
        for entry in sorted(self.entries.values(), key=lambda entry: -entry.sigma):
            levels.setdefault(entry.sigma, []).append(entry)
        return levels

    def sigmas(self) -> list[float]:
        """Return the noise levels of the run, noisiest first."""
        return list(self.steps)

    def timestep(self, sigma: float) -> float:
        """Return the timestep (0..999) that belongs to a recorded noise level."""
        return self.steps[sigma][0].timestep

    def grid(self) -> tuple[int, int] | None:
        """Return the finest grid (H, W) with a mask of whole images, None if there is none."""
        grids = [(e.mask.shape[-2], e.mask.shape[-1]) for e in self.entries.values() if e.images is not None]
        return max(grids, key=lambda grid: grid[0] * grid[1], default=None)

    def step_mask(self, sigma: float) -> Tensor:
        """Return what was detected at one noise level, by any block in any conditioning.

        Negative prompts count only where no positive one was looked at.

        Returns:
            bool [B, H, W] on the finest grid; all False if nothing covers whole images.
        """
        grid = self.grid() or (1, 1)
        union = torch.zeros(self.images, *grid, dtype=torch.bool)
        looked = [entry for entry in self.steps[sigma] if entry.looked and entry.images is not None]
        for role in (POSITIVE, NEGATIVE):
            found = [entry for entry in looked if entry.role == role]
            for entry in found:
                union[list(entry.images or ())] |= resize_mask(entry.mask, grid)
            if found:
                break
        return union

    def heat(self) -> Tensor:
        """Return the share of steps (0..1) in which each patch was detected, float [B, H, W]."""
        grid = self.grid() or (1, 1)
        total = torch.zeros(self.images, *grid)
        for sigma in self.steps:
            total += self.step_mask(sigma)
        return total / max(len(self.steps), 1)

    def shared_statistics(self, reference: "RunRecord | None") -> list[tuple[Statistics, Statistics]]:
        """Pair the numbers of this run's patch embeddings with those of an unedited run, for each block and step.

        Args:
            reference: the record of an unedited run; None compares with what the blocks gave in this run before
                they were edited.

        Returns:
            (this run's, unedited) of the positive prompts; empty if the runs have no block and step in common.
        """
        pairs = []
        for (hookpoint, _, sigma), entry in self.entries.items():
            if entry.role != POSITIVE or not self._is_whole(entry) or entry.after is None or entry.before is None:
                continue
            unedited = entry.before if reference is None else reference.statistics_at(hookpoint, sigma)
            if unedited is not None and unedited.norms.shape == entry.after.norms.shape:
                pairs.append((entry.after, unedited))
        return pairs

    def statistics_at(self, hookpoint: str, sigma: float) -> Statistics | None:
        """Return what a block passed on at one noise level for the positive prompts, None if it is not known."""
        for entry in self.steps.get(sigma, ()):
            if (entry.hookpoint, entry.role) == (hookpoint, POSITIVE) and self._is_whole(entry):
                return entry.after
        return None

    def _is_whole(self, entry: StepEntry) -> bool:
        """Tell whether an entry holds all images of the run, in order."""
        return entry.images == tuple(range(self.images))

    def edited_shares(self, image: int) -> list[float]:
        """Return which share (0..1) of an image was edited at each noise level, noisiest first.

        Where the rest was kept, it is the region's, where cross-attention is edited in every step; else it is that of
        the replaced patches, of the block that had the most.
        """
        if self.kept is not None:
            return [self.kept.share(image)] * len(self.steps)
        shares = dict.fromkeys(self.steps, 0.0)
        for entry in self.entries.values():
            if entry.images is not None and image in entry.images and entry.role == POSITIVE:
                row = entry.images.index(image)
                shares[entry.sigma] = max(shares[entry.sigma], entry.replaced[row] / entry.mask[row].numel())
        return list(shares.values())

    def replaced(self) -> int:
        """Return how many patch embeddings were replaced in the whole run."""
        return sum(sum(entry.replaced) for entry in self.entries.values())

    def may_have_changed(self) -> list[bool]:
        """Tell which images an edit may have reached."""
        if self.kept is not None:
            return self.kept.region.flatten(1).any(1).tolist()
        changed = [False] * self.images
        for entry in self.entries.values():
            if entry.images is None and any(entry.replaced):
                return [True] * self.images  # nobody knows in which
            for image, count in zip(entry.images or (), entry.replaced, strict=False):
                changed[image] |= count > 0
        return changed

    def summary(self) -> str:
        """Return a few sentences for a person."""
        return " ".join([self.figures(), *self.remarks()])

    def figures(self) -> str:
        """Return what was detected and replaced in one sentence."""
        name = f"Run {self.number} (seed {self.seed}"
        if not self.entries:
            return f"{name}): the detector did not look at any step."
        detected = float(self.seen.heat().mean())
        edits = f"{self.replaced()} patch embeddings replaced"
        if self.kept is not None and self.kept.filled:
            edits = f"{self.kept.share():.1%} of the image filled"
        text = (
            f"{name}, {self.images} image(s), {len(self.steps)} steps looked at): {detected:.1%} of "
            f"all patches detected, {edits}.{self.seen.found_each()}"
        )
        return text if self.kept is None else f"{text} {self.kept.sentence(self.remaining)}"

    def found_each(self) -> str:
        """Return which of several concepts was found, and in how much of the images."""
        if len(self.concepts) < 2:
            return ""
        found = {name: float((heat > 0).float().mean()) for name, heat in self.concepts.items() if heat.any()}
        missing = [name for name in self.concepts if name not in found]
        parts = [f"{name} in {share:.1%}" for name, share in sorted(found.items(), key=lambda pair: -pair[1])]
        said = f" Found in patches at some step: {', '.join(parts)}." if parts else ""
        return said + (f" Not found: {', '.join(missing)}." if missing else "")

    def leftovers(self) -> list[str]:
        """Return in which images the concept is still found at the end: a sentence, or none."""
        left = [str(i + 1) for i, remains in enumerate(self.remaining) if remains]
        return [f"The concept is still found in image {_listed(left)} of {self.images}."] if left else []

    def remarks(self) -> list[str]:
        """Return what is left and what could not be done, a sentence each."""
        return [*self.leftovers(), *self.warnings()]

    def warnings(self) -> list[str]:
        """Return what could not be done, a sentence each."""
        return [f"{note} ({count} times)." for note, count in self.notes.items()]

    def size(self) -> int:
        """Return roughly how many bytes it holds."""
        kept = (each for e in self.entries.values() for each in (e.before, e.after) if each is not None)
        own = sum(each.squares.nbytes + each.values.nbytes for each in kept)
        return own if self.kept is None else own + self.kept.unedited.size()
