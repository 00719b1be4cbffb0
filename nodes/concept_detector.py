"""Concept Detector: an SAE and a concept become a detection."""

from comfy_api.latest import io

from ..erasure.detection import JOINS, DetectionTree, Detector, Join
from ..sae_models.concepts import Concept
from ..sae_models.formats.native import SAEFileError
from ..sae_models.loaded import LoadedSAE
from . import concept_lists, files
from .checking import FileChoice, checked
from .sockets import ADVANCED, CONCEPT, DETECTION, EDIT, SAE, part_inputs

NAME = "Concept Detector"
ALL = "all"


class ConceptDetector(io.ComfyNode):
    """Say which concept to look for, and when."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptErasureConceptDetector",
            display_name=NAME,
            category=EDIT,
            description="Says what to look for: one concept that the SAE knows, or several. To join detections of "
            "several SAEs, chain detectors through 'join_with'.",
            inputs=[
                SAE.Input("sae", tooltip="The SAE that does the looking, from the SAE Loader."),
                FileChoice(
                    "concept",
                    options=[*files.concept_names(), *files.concept_file_names(), *concept_lists.names()] or ["none"],
                    tooltip="The concept to find. After the concepts of all SAE files come your concept files and "
                    "your lists of concepts ('concepts/'). One that the connected SAE does not know gives an error.",
                ),
                io.Float.Input(
                    "sensitivity",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How easily a patch counts as holding the concept. 1 uses the measured thresholds, "
                    "2 halves them, 0 finds nothing.",
                ),
                *part_inputs(
                    "When to begin looking: 0 is the first, noisiest step.",
                    "When to stop looking: 1 is the end of sampling.",
                ),
                io.String.Input(
                    "features",
                    default="",
                    tooltip="For experts: indices of SAE features, such as '17, 204'. If filled in, they are used "
                    "instead of the concept.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "join_mode",
                    options=list(JOINS),
                    tooltip="With join_with connected: 'union' finds what either detector finds, 'intersection' "
                    "only what both find.",
                    **ADVANCED,
                ),
                io.String.Input(
                    "more_concepts",
                    default="",
                    tooltip="Further concepts to find, separated by commas, such as 'dog, bird', or a list such as "
                    "'concepts/animals.txt'. 'all' stands for all that the SAE file knows.",
                ),
                DETECTION.Input(
                    "join_with",
                    optional=True,
                    tooltip="Another detector to join this one with. May stay empty.",
                ),
                CONCEPT.Input(
                    "custom_concept",
                    optional=True,
                    tooltip="A concept from another node, used instead of the list. May stay empty.",
                ),
            ],
            outputs=[
                DETECTION.Output(
                    display_name="detection",
                    tooltip="What to find, for the Mask Refiner or the Patch Replacer.",
                ),
                CONCEPT.Output(
                    display_name="concept", tooltip="The concept alone, for another Concept Detector's input."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, concept: str | None = None) -> bool | str:
        """Leave it to the run to say what is wrong with a concept: it knows the SAE, and what is used instead."""
        return True

    @classmethod
    def fingerprint_inputs(cls, concept: str | None = None, more_concepts: str = "", **_others: object) -> object:
        """Run again when a chosen concept file or list has changed on disk."""
        named = [each for each in [concept, *_parts(more_concepts)] if each is not None]
        there = files.concept_file_names()
        lists = [concept_lists.fingerprint(each) for each in named if concept_lists.is_list(each)]
        return [files.concept_fingerprint(each) for each in named if each in there] + lists or None

    @classmethod
    @checked
    def execute(
        cls,
        sae: LoadedSAE,
        concept: str,
        sensitivity: float,
        start_percent: float,
        end_percent: float,
        features: str,
        join_mode: str,
        more_concepts: str = "",
        join_with: DetectionTree | None = None,
        custom_concept: Concept | None = None,
    ) -> io.NodeOutput:
        chosen, *others = _choose(sae, concept, features, custom_concept)
        others += _known_all(sae, _parts(more_concepts), "more_concepts")
        more = {each.name: each for each in others if each.name != chosen.name}
        detection: DetectionTree = Detector(sae, chosen, sensitivity, start_percent, end_percent, tuple(more.values()))
        if join_with is not None:
            detection = Join(join_mode, join_with, detection)
        return io.NodeOutput(detection, chosen)


def _choose(sae: LoadedSAE, name: str, features: str, custom: Concept | None) -> list[Concept]:
    """Pick the concept, or those of a list: feature indices before a connected concept before the choice."""
    if features.strip():
        return [sae.from_features(parse_features(features, sae, NAME))]
    return _known_all(sae, [name], "concept") if custom is None else [_known(sae, custom, "input 'custom_concept'")]


def _parts(names: str) -> list[str]:
    """``"dog, bird"`` -> ``["dog", "bird"]``."""
    return [name.strip() for name in names.split(",") if name.strip()]


def _known_all(sae: LoadedSAE, names: list[str], origin: str) -> list[Concept]:
    """Return the concepts that are named, those of lists among them.

    Args:
        sae: whose they must be.
        names: of concepts, of files of one, or of lists; `ALL` alone stands for all that the SAE knows.
        origin: the input that they came by.
    """
    if [name.lower() for name in names] == [ALL]:
        names = sae.dictionary.names()
    found = []
    for name in names:
        if not concept_lists.is_list(name):
            found.append(_known(sae, name, f"input '{origin}'"))
            continue
        try:
            members = concept_lists.read(name)
        except ValueError as error:
            raise ValueError(f"{NAME}: input '{origin}': {error}.") from error
        found += [_known(sae, member, f"input '{origin}', list '{name}'") for member in members]
    return found


def _known(sae: LoadedSAE, concept: str | Concept, origin: str) -> Concept:
    """Return a concept of an SAE.

    Args:
        sae: whose it must be.
        concept: it, or its name, or the name of a file of one.
        origin: the input that it came by, as a message says it.

    Raises:
        ValueError: the SAE does not know it; the message names the node and the input.
    """
    try:
        if isinstance(concept, Concept):
            return sae.require_own(concept)
        if files.is_concept_file(concept):
            return sae.require_own(files.load_concept(concept))
        return sae.concept(concept)
    except (KeyError, ValueError) as error:
        advice = f" {error.advice}" if isinstance(error, SAEFileError) else ""
        raise ValueError(f"{NAME}: {origin}: {error.args[0]}.{advice}") from error


def parse_features(text: str, sae: LoadedSAE, node: str) -> list[int]:
    """Read feature indices, separated by commas or spaces, from the input 'features' of a node.

    Raises:
        ValueError: they are no numbers, or the SAE has fewer features.
    """
    try:
        indices = [int(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise ValueError(
            f"{node}: input 'features' must hold whole numbers separated by commas, such as '17, 204'; it holds "
            f"'{text}'."
        ) from error
    limit = sae.config.num_latents
    outside = [i for i in indices if not 0 <= i < limit]
    if outside:
        raise ValueError(
            f"{node}: input 'features': {', '.join(map(str, outside))} is out of range; the SAE {sae.name} has "
            f"features 0 to {limit - 1}."
        )
    return indices
