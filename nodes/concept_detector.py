"""Concept Detector: an SAE and a concept become a detection."""

from comfy_api.latest import io

from ..erasure.detection import JOINS, DetectionTree, Detector, Join
from ..sae_models.concepts import Concept
from ..sae_models.formats.native import SAEFileError
from ..sae_models.loaded import LoadedSAE
from . import files
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
                    options=[*files.concept_names(), *files.concept_file_names()] or ["none"],
                    tooltip="The concept to find. The list holds the concepts of all SAE files, then your concept "
                    "files ('concepts/'); one that the connected SAE does not know gives an error that lists those "
                    "it does.",
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
                    tooltip="Further concepts to find, separated by commas, such as 'dog, bird'. 'all' stands for all "
                    "that the SAE file knows.",
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
    def fingerprint_inputs(cls, concept: str | None = None, **_others: object) -> object:
        """Run again when the chosen concept file has changed on disk."""
        return files.concept_fingerprint(concept) if concept in files.concept_file_names() else None

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
        chosen = _choose(sae, concept, features, custom_concept)
        more = tuple(each for each in _further(sae, more_concepts) if each.name != chosen.name)
        detection: DetectionTree = Detector(sae, chosen, sensitivity, start_percent, end_percent, more)
        if join_with is not None:
            detection = Join(join_mode, join_with, detection)
        return io.NodeOutput(detection, chosen)


def _choose(sae: LoadedSAE, name: str, features: str, custom: Concept | None) -> Concept:
    """Pick the concept: feature indices before a connected concept before the list."""
    if features.strip():
        return sae.from_features(parse_features(features, sae, NAME))
    return _known(sae, name, "concept") if custom is None else _known(sae, custom, "custom_concept")


def _further(sae: LoadedSAE, names: str) -> list[Concept]:
    """Return the concepts that are named beside the chosen one, each once."""
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if [name.lower() for name in listed] == [ALL]:
        listed = sae.dictionary.names()
    return [_known(sae, name, "more_concepts") for name in dict.fromkeys(listed)]


def _known(sae: LoadedSAE, concept: str | Concept, origin: str) -> Concept:
    """Return a concept of an SAE.

    Args:
        sae: whose it must be.
        concept: it, or its name, or the name of a file of one.
        origin: the input that it came by.

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
        raise ValueError(f"{NAME}: input '{origin}': {error.args[0]}.{advice}") from error


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
