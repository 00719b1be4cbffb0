"""Keep the rest: sample without edits first, and edit only where the concept was found.

One ``Keeper`` directs all Patch Replacers of a model that keep the rest. The first pass only looks. Between the passes
the region of each image is decided; where there is none, the image is that of the first pass. The later passes start
from the same noise, edit inside the regions, and take every prediction outside from the first pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..unet.passes import Passes
from ..unet.progress import say
from .eraser import UNPLACED, Eraser, Task
from .evidence import RegionMask
from .record import Kept, RunRecord
from .region import find_regions, remains

UNSTEADY = (
    "The sampler's steps depend on the whole image (as dpm_adaptive's do), so the area around the region was put back "
    "at the end. Its border may show; another sampler has none"
)


@dataclass(frozen=True, eq=False)
class Rest:
    """How a Patch Replacer keeps the rest of the image.

    Attributes:
        attempts: how often at most the run is sampled with edits, until the concept is not found any more.
        fill: text embedding that cross-attention follows inside the region, [1 or B, T, C]; then no patch is replaced.
            None replaces patches.
    """

    attempts: int = 2
    fill: Tensor | None = None


@dataclass(eq=False)
class Member:
    """One Patch Replacer of a Keeper."""

    eraser: Eraser
    rest: Rest

    def task(self, region: Tensor, attempt: int) -> Task:
        """Return what it shall do in a pass that edits inside a region, bool [B, H, W]."""
        fill = self.rest.fill
        return Task(RegionMask(region), fill is None, fill, min(attempt, self.rest.attempts - 1))


class Keeper:
    """Directs the sampling of a model with Patch Replacers that keep the rest.

    Args:
        members: in the order in which they are attached.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)

    def direct(self, passes: Passes) -> Tensor:
        """Sample as often as it takes; see ``unet.passes.Director``."""
        try:
            return _Run(self.members, passes).sample()
        finally:
            for member in self.members:
                member.eraser.task = None


class _Run:
    """One run of the sampler under a Keeper."""

    def __init__(self, members: Sequence[Member], passes: Passes) -> None:
        self.members, self.passes = members, passes
        for member in members:
            _check_fill(member.rest.fill, passes.images)
        self.records: list[list[RunRecord]] = [[] for _ in members]  # by member, then by pass
        self.free: list[Tensor] = []  # by pass

    def sample(self) -> Tensor:
        self._pass([Task() for _ in self.members], None)
        seen = [member.eraser.evidence.gather(self.passes.images, self.passes.size) for member in self.members]
        nothing = torch.zeros(self.passes.images, *self.passes.size, dtype=torch.bool)
        clean = self.passes.clean.float().cpu() if any(each is not None for each in seen) else None
        regions = [nothing if each is None or clean is None else find_regions(each, clean) for each in seen]
        self.free.append(nothing)
        choice = [0] * self.passes.images
        remaining = torch.zeros(len(self.members), self.passes.images, dtype=torch.bool)
        if any(bool(region.any()) for region in regions):
            choice, remaining = self._edit(regions)
        result, steady = self.passes.result(choice, self.free)
        self._conclude(regions, choice, remaining, result, steady)
        return result

    def _edit(self, regions: list[Tensor]) -> tuple[list[int], Tensor]:
        """Sample with edits until no concept is found any more.

        Returns:
            which pass each image is best in; and which concept remains in it, bool [members, B].
        """
        wanted = torch.stack([region.flatten(1).any(1) for region in regions])
        choice = [0] * self.passes.images
        best = wanted.clone()
        for attempt in range(max(member.rest.attempts for member in self.members)):
            tasks = [member.task(region, attempt) for member, region in zip(self.members, regions, strict=True)]
            self._pass(tasks, torch.stack(regions).any(0))
            now = self._remaining(regions) & wanted
            for image in range(self.passes.images):
                if not wanted[:, image].any():
                    continue
                if choice[image] == 0 or now[:, image].sum() < best[:, image].sum():
                    choice[image], best[:, image] = attempt + 1, now[:, image]
            tries = [m.rest.attempts for m, left in zip(self.members, best, strict=True) if bool(left.any())]
            if attempt + 1 >= max(tries, default=0):
                break
        return choice, best

    def _remaining(self, regions: list[Tensor]) -> Tensor:
        """Tell in which images a pass still found each concept, bool [members, B]."""
        found = []
        for member, region in zip(self.members, regions, strict=True):
            seen = member.eraser.evidence.gather(self.passes.images, self.passes.size)
            found.append(region.flatten(1).any(1) & False if seen is None else remains(seen, region))
        return torch.stack(found)

    def _pass(self, tasks: Sequence[Task], free: Tensor | None) -> None:
        number = len(self.passes.samples)
        say("pass 1: looking for the concept" if free is None else f"pass {number + 1}: editing where it was found")
        for member, task in zip(self.members, tasks, strict=True):
            member.eraser.task = task
        if free is None:
            self.passes.first()
        else:
            self.free.append(free)
            self.passes.again(free)
        for kept, member in zip(self.records, self.members, strict=True):
            kept.append(member.eraser.record.take())

    def _conclude(
        self, regions: list[Tensor], choice: list[int], remaining: Tensor, result: Tensor, steady: bool
    ) -> None:
        """Make one record of the passes, for each Patch Replacer."""
        for member, records, region, left in zip(self.members, self.records, regions, remaining, strict=True):
            if not steady:
                records[-1].notes[UNSTEADY] += 1
            if member.eraser.evidence.unplaced:
                records[-1].notes[UNPLACED] += 1
            kept = Kept(records[0], region, len(self.passes.samples))
            member.eraser.record.add(records, choice, kept, left.tolist(), result)


def _check_fill(fill: Tensor | None, images: int) -> None:
    """Check that a fill is one for all images, or one for each.

    Raises:
        ValueError: it is not.
    """
    if fill is not None and len(fill) not in (1, images):
        raise ValueError(
            f"Patch Replacer: input 'fill' holds {len(fill)} text embeddings, but {images} image(s) are sampled. "
            "Connect one for all images, or one for each."
        )
