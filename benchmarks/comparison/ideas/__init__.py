"""Ideas to better random donors, which are no part of the pack.

``python dev/host benchmarks.comparison.ideas`` prints the table's columns for no edit, random donors, each idea and
each of `SETTINGS`, on tuning seeds; ``--split reporting`` on others. Without a word about it patches are found,
replaced at the same blocks and by donors from the same quarter as by the Patch Replacer's defaults, but at random;
ideas differ in what is put in, or in what counts as found:

* ``steady``: a place keeps its donor as long as that may be one, at both blocks and from step to step;
* ``shift SHARE``: what lies at one distance from all detected patches, the one at which most may be donors (``SHARE``
  of the undetected may be); it is kept while half of them may. The rest gets random ones;
* ``shifted``: as `alike` of the Patch Replacer, but the concept's direction is not taken out: the patch is moved along
  it to the donors' mean, and the donor nearest to that point is taken;
* ``sided``: as `alike`, but not of donors that lie on the detected patches' side of the middle along that direction;
* ``earlier``: what the same place held when the concept was last not seen there;
* ``bank``: patches of pictures of no object, drawn beforehand in every style; of the picture that is most like the rest
  of this one, at the nearest timestep;
* ``soft``: donors are blended in, wholly where a patch is half as much again as detected, by half at the threshold;
* ``smooth``: a patch is detected by the mean score of this step and the last two;
* ``twice``: a patch is detected if it was in at least two of this step and the last two;
* ``finish T``: below timestep T patches are replaced by those that the unconditional half has in their place, also
  where the concept was seen twice before;
* ``quiet T K``: below timestep T the UNet's last block, too, gets the unconditional half's patches in place of the
  patches found now or in at least K looks: there the prompt has no say any more, and guidance none;
* ``hush T K``: the same in all of a picture of which 6 patches were found at once;
* ``bare T K``: the same in every picture, as when the last steps are drawn by another sampler node without the prompt;
* ``mute T K``: as ``quiet``, but the unconditional half is replaced at the other blocks as well, in the same places;
* ``calm T K``: as ``quiet``; in the rest of a picture of which 6 patches were found at once the patches of both halves
  are mixed there, so that guidance is 1 instead of what it was;
* ``keen SHARE``: once 6 patches of a picture were found at once, this share of the threshold is enough in it; what
  follows, if anything, is an idea of the four above;
* ``again SHARE``: the picture is noised again and drawn once more, with the same edit, from the last SHARE of the
  steps; what follows, if anything, is the idea by which both are drawn;
* ``redraw SHARE``: the same, but without a prompt, and only of pictures of which 6 patches were found at once.

A row is spelled ``idea NAME`` in methods.py. ``--share I/N`` makes one of N processes' part of the pictures only.
"""

from .drawing import draw
from .run import main

__all__ = ["draw", "main"]
