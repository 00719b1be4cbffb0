"""Keep the rest: sample without edits first, and edit only where the concept was found.

One ``Keeper`` directs all Patch Replacers of a model that keep the rest. The first pass only looks. Between the passes
the region of each image is decided; where there is none, the image is that of the first pass. The later passes edit
inside the regions, from other noise, and take noise and every prediction outside from the first pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..unet.opening import Opening
from ..unet.passes import Passes
from ..unet.progress import say
from .eraser import UNPLACED, Eraser, Task
from .evidence import Evidence, RegionMask, Seen
from .record import Kept, RunRecord
from .region import find_regions, grown, remains

UNSTEADY = (
    "The sampler's steps depend on the whole image (as dpm_adaptive's do), so the area around the region was put back "
    "at the end. Its border may show; another sampler has none"
)

# Down to which noise level (sigma) a region is made to continue its surroundings; see docs/decisions/0022.
CONTINUED, NEVER = 1.0, float("inf")

# In steps with at most so much noise (sigma) the region is larger, by this share of the image's side and at least so
# many cells of the latent; see docs/decisions/0023.
END, WIDER, LEAST_WIDER = 0.6, 1 / 16, 2

LOCKED = "The concept lies outside of the latent's noise mask, where nothing may change. Widen the mask"


@dataclass(frozen=True, eq=False)
class Rest:
    """How a Patch Replacer keeps the rest of the image.

    Attributes:
        attempts: how often at most the run is sampled with edits, until the concept is not found any more.
        fill: text embedding that cross-attention follows inside the region, [1 or B, T, C]; then no patch is replaced.
            None replaces patches.
        continues: whether what a fill draws continues the region's surroundings, as a background does, or is new.
    """

    attempts: int = 2
    fill: Tensor | None = None
    continues: bool = True

    @property
    def continued_to(self) -> float:
        """Noise level (sigma) down to which the region continues its surroundings."""
        return CONTINUED if self.fill is None or self.continues else NEVER


@dataclass(eq=False)
class Member:
    """One Patch Replacer of a Keeper."""

    eraser: Eraser
    rest: Rest

    def task(self, region: Tensor, attempt: int) -> Task:
        """Return what it shall do in a pass that edits inside a region, bool [B, H, W]."""
        return Task(RegionMask(region), self.rest.fill, min(attempt, self.rest.attempts - 1))


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
                member.eraser.task, member.eraser.evidence = None, Evidence()


class _Run:
    """One run of the sampler under a Keeper."""

    def __init__(self, members: Sequence[Member], passes: Passes) -> None:
        self.members, self.passes = members, passes
        for member in members:
            _check_fill(member.rest.fill, passes.images)
        self.records: list[list[RunRecord]] = [[] for _ in members]  # by member, then by pass
        self.regions: list[Tensor] = []  # by pass: what each member may change, bool [members, B, H, W]

    def sample(self) -> Tensor:
        nowhere = torch.zeros(len(self.members), self.passes.images, *self.passes.size, dtype=torch.bool)
        seen = self._pass([Task() for _ in self.members], nowhere)
        regions = nowhere
        if any(each is not None for each in seen):
            clean = self.passes.clean.float().cpu()
            found = [find_regions(each, clean) if each else nowhere[0] for each in seen]
            regions = torch.stack(found)
        choice, remaining = [0] * self.passes.images, regions.flatten(2).any(2)
        wanted = (regions & self.passes.editable(regions.shape[-2:])).flatten(2).any(2)
        locked = remaining & ~wanted
        if bool(wanted.any()):
            choice, remaining = self._edit(regions, wanted, locked)
        result, steady = self.passes.result(choice, [regions.any(0) for regions in self.regions])
        self._conclude(
            choice, remaining, result, {LOCKED: locked.any(1).tolist(), UNSTEADY: [not steady] * len(locked)}
        )
        return result

    def _edit(self, regions: Tensor, wanted: Tensor, locked: Tensor) -> tuple[list[int], Tensor]:
        """Sample with edits until no concept is found any more.

        Args:
            regions: bool [members, B, H, W].
            wanted: in which images a member can change something in its region, bool [members, B].
            locked: in which it has a region and cannot.

        Returns:
            which pass each image is best in; and which concept remains in it, bool [members, B].
        """
        choice, best = [0] * self.passes.images, wanted | locked
        for attempt in range(max(member.rest.attempts for member in self.members)):
            if attempt:
                # What remains may be a part of the object that lay outside.
                regions = grown(regions)
            tasks = [member.task(region, attempt) for member, region in zip(self.members, regions, strict=True)]
            answers = zip(self._pass(tasks, regions), regions, strict=True)
            seen = torch.stack([remains(s, r) if s else torch.zeros(len(r), dtype=torch.bool) for s, r in answers])
            now = wanted & seen | locked
            for image in wanted.any(0).nonzero()[:, 0].tolist():
                if choice[image] == 0 or now[:, image].sum() < best[:, image].sum():
                    choice[image], best[:, image] = attempt + 1, now[:, image]
            left = (best & wanted).any(1).tolist()
            tries = [member.rest.attempts for member, more in zip(self.members, left, strict=True) if more]
            if attempt + 1 >= max(tries, default=0):
                break
        return choice, best

    def _pass(self, tasks: Sequence[Task], regions: Tensor) -> list[Seen | None]:
        """Sample once; return what each member's detectors answered."""
        number = len(self.regions)
        for member, task in zip(self.members, tasks, strict=True):
            member.eraser.task = task
        wider = grown(regions, cells_wider(self.passes.size))
        self.regions.append(wider)
        if number == 0:
            say("Pass 1: looking for the concept")
            self.passes.first()
        else:
            say(f"Pass {number + 1}: editing where it was found")
            self.passes.again(Opening(regions.any(0), wider.any(0), END, self._continued(regions), number))
        for kept, member in zip(self.records, self.members, strict=True):
            kept.append(member.eraser.record.take())
        images, size = self.passes.images, self.passes.size
        return [member.eraser.evidence.gather(images, size) for member in self.members]

    def _continued(self, regions: Tensor) -> Tensor:
        """Return the noise level down to which each image's regions continue their surroundings, [B].

        Args:
            regions: bool [members, B, H, W]. Where those of several members meet, what is new must stay as it is.
        """
        levels = torch.tensor([member.rest.continued_to for member in self.members])
        return torch.where(regions.flatten(2).any(2), levels[:, None], 0.0).amax(0)

    def _conclude(
        self, choice: list[int], remaining: Tensor, result: Tensor, notes: Mapping[str, Sequence[bool]]
    ) -> None:
        """Make one record of the passes, for each Patch Replacer.

        Args:
            notes: what to say, and for which members.
        """
        said = []
        for i, (member, records) in enumerate(zip(self.members, self.records, strict=True)):
            for note, concerned in notes.items():
                if concerned[i]:
                    records[-1].notes[note] += 1
            if member.eraser.evidence.unplaced:
                records[-1].notes[UNPLACED] += 1
            region = torch.stack([self.regions[number][i, image] for image, number in enumerate(choice)])
            kept = Kept(records[0], region, len(self.regions), member.rest.fill is not None)
            record = member.eraser.record.add(records, choice, kept, remaining[i].tolist(), result)
            said += [kept.sentence(record.remaining), *record.leftovers()]
        say(" ".join(dict.fromkeys(said)))


def cells_wider(size: Sequence[int]) -> int:
    """Return by how many cells of latents of a size (height, width) a region is larger in steps with little noise."""
    return max(LEAST_WIDER, round(WIDER * min(size)))


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
