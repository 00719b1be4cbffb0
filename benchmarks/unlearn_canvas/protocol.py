"""What UnlearnCanvas asks for: objects, styles, prompts, seeds, and which images that makes.

As SAeUron (Cywinski & Deja 2025, arXiv 2501.18052) runs object unlearning: every object in every style and once without
a style, for each seed. Names and their order are those of the published classifiers' outputs, so do not sort them anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OBJECTS = (
    "Architectures",
    "Bears",
    "Birds",
    "Butterfly",
    "Cats",
    "Dogs",
    "Fishes",
    "Flame",
    "Flowers",
    "Frogs",
    "Horses",
    "Human",
    "Jellyfish",
    "Rabbits",
    "Sandwiches",
    "Sea",
    "Statues",
    "Towers",
    "Trees",
    "Waterfalls",
)
PHOTO = "Seed_Images"  # the classifier's name for photographs, which stand for no style
STYLES = (
    "Abstractionism",
    "Artist_Sketch",
    "Blossom_Season",
    "Bricks",
    "Byzantine",
    "Cartoon",
    "Cold_Warm",
    "Color_Fantasy",
    "Comic_Etch",
    "Crayon",
    "Cubism",
    "Dadaism",
    "Dapple",
    "Defoliation",
    "Early_Autumn",
    "Expressionism",
    "Fauvism",
    "French",
    "Glowing_Sunset",
    "Gorgeous_Love",
    "Greenfield",
    "Impressionism",
    "Ink_Art",
    "Joy",
    "Liquid_Dreams",
    "Magic_Cube",
    "Meta_Physics",
    "Meteor_Shower",
    "Monet",
    "Mosaic",
    "Neon_Lines",
    "On_Fire",
    "Pastel",
    "Pencil_Drawing",
    "Picasso",
    "Pop_Art",
    "Red_Blue_Ink",
    "Rust",
    "Seed_Images",
    "Sketch",
    "Sponge_Dabbed",
    "Structuralism",
    "Superstring",
    "Surrealism",
    "Ukiyoe",
    "Van_Gogh",
    "Vibrant_Flow",
    "Warm_Love",
    "Warm_Smear",
    "Watercolor",
    "Winter",
)
SEEDS = (188, 288, 588, 688, 888)


@dataclass(frozen=True)
class ProtocolImage:
    """One image of the protocol.

    Attributes:
        object: what the prompt asks for, of OBJECTS.
        style: of STYLES; PHOTO for a prompt that names none.
        seed: of its noise.
    """

    object: str
    style: str
    seed: int

    @property
    def prompt(self) -> str:
        """The prompt, as SAeUron words it."""
        if self.style == PHOTO:
            return f"An image of {self.object}."
        return f"An image of {self.object} in {self.style.replace('_', ' ')} style."

    @property
    def file(self) -> str:
        """The file's name, as the published scripts have it."""
        return f"{'' if self.style == PHOTO else self.style + '_'}{self.object}_seed{self.seed}.jpg"

    @classmethod
    def of_file(cls, name: str) -> "ProtocolImage":
        """Read a file's name.

        Raises:
            ValueError: it is none of the protocol's.
        """
        front, _, seed = Path(name).stem.rpartition("_seed")
        style, _, thing = front.rpartition("_")
        if thing not in OBJECTS or (style or PHOTO) not in STYLES or not seed.isdecimal():
            raise ValueError(f"{name} is no image of the protocol")
        return cls(thing, style or PHOTO, int(seed))


def images(objects: Sequence[str], styles: Sequence[str], seeds: Sequence[int]) -> list[ProtocolImage]:
    """Return every object in every style at every seed: 5,100 with the protocol's own lists."""
    return [ProtocolImage(thing, style, seed) for seed in seeds for style in styles for thing in objects]
