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
            description="Sets what to find: one concept that the SAE knows, or several. Connect it to a Patch "
            "Replacer, which erases it; to use several SAEs, chain detectors through 'join_with'.",
            inputs=[
                SAE.Input("sae", tooltip="The SAE that detects the concept, from the SAE Loader."),
                FileChoice(
                    "concept",
                    options=[*files.concept_names(), *files.concept_choices()] or ["none"],
                    tooltip="The concept to find; choose one that the connected SAE knows. Your saved concepts and "
                    "lists of concepts come last, as 'concepts/...'.",
                ),
                io.Float.Input(
                    "sensitivity",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How easily a patch is detected: 1 is normal, more detects more, 0 detects nothing. "
                    "Raise it if parts of the object stay, lower it if too much is erased.",
                ),
                io.String.Input(
                    "more_concepts",
                    default="",
                    tooltip="More concepts to find, separated by commas, such as 'dog, bird', or a list such as "
                    "'concepts/animals.txt'. all, alone: every concept of the SAE file.",
                ),
                *part_inputs(
                    "When to begin detecting: 0 is the first, noisiest step.",
                    "When to stop detecting: 1 is the end of sampling.",
                ),
                io.String.Input(
                    "features",
                    default="",
                    tooltip="For experts: numbers of SAE features, such as '17, 204'. They are used instead of "
                    "'concept' and 'custom_concept'.",
                    **ADVANCED,
                ),
                io.Combo.Input(
                    "join_mode",
                    options=list(JOINS),
                    tooltip="With 'join_with' connected. union: patches that either detector detects; intersection: "
                    "only those that both detect.",
                    **ADVANCED,
                ),
                DETECTION.Input(
                    "join_with",
                    optional=True,
                    tooltip="Optional: another detector, to combine with this one.",
                ),
                CONCEPT.Input(
                    "custom_concept",
                    optional=True,
                    tooltip="Optional: a concept from another node, such as the Concept Finder. It is used instead "
                    "of 'concept'.",
                ),
            ],
            outputs=[
                DETECTION.Output(
                    display_name="detection",
                    tooltip="What to find, for the Mask Refiner or the Patch Replacer.",
                ),
                CONCEPT.Output(
                    display_name="concept",
                    tooltip="The first concept alone: for Save Concept, Concept Math, Feature Steering, or "
                    "'custom_concept' of another Concept Detector.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, concept: str | None = None) -> bool | str:
        """Leave it to the run to say what is wrong with a concept: it knows the SAE, and what is used instead."""
        return True

    @classmethod
    def fingerprint_inputs(
        cls, concept: str | None = None, more_concepts: str | None = None, **_others: object
    ) -> object:
        """Run again when a chosen concept file or list has changed on disk; what comes by a link is not known yet."""
        return files.concept_fingerprints(each for each in [concept, *_parts(more_concepts or "")] if each) or None

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
        chosen, *others = _wanted(sae, concept, more_concepts, features, custom_concept)
        more = tuple(each for each in others if each.name != chosen.name)
        detection: DetectionTree = Detector(sae, chosen, sensitivity, start_percent, end_percent, more)
        if join_with is not None:
            detection = Join(join_mode, join_with, detection)
        return io.NodeOutput(detection, chosen)


def _wanted(sae: LoadedSAE, name: str, more: str, features: str, custom: Concept | None) -> list[Concept]:
    """Return all concepts to find: feature indices before a connected concept before the choice, then the others."""
    first: list[Concept] = []
    named: dict[str, str] = {}
    if features.strip():
        first.append(sae.from_features(parse_features(features, sae, NAME)))
    elif custom is not None:
        first.append(_known(sae, custom, "input 'custom_concept'"))
    else:
        named = _expanded([name], "concept")
    further = _parts(more)
    if [each.lower() for each in further] == [ALL]:
        further = sae.dictionary.names()
    named |= _expanded(further, "more_concepts")
    return [*first, *(_known(sae, each, origin) for each, origin in named.items())]


def _parts(names: str) -> list[str]:
    """``"dog, bird"`` -> ``["dog", "bird"]``."""
    return [name.strip() for name in names.split(",") if name.strip()]


def _expanded(names: list[str], origin: str) -> dict[str, str]:
    """Put what a list names in the list's place.

    Args:
        names: of concepts, of files of one, or of lists.
        origin: the input that they came by.

    Returns:
        name of a concept or of a file of one, each once -> where it stands, as a message says it.

    Raises:
        ValueError: a list cannot be used; the message names the node and the input.
    """
    found: dict[str, str] = {}
    for name in names:
        if not concept_lists.is_list(name):
            found[name] = f"input '{origin}'"
            continue
        try:
            found |= dict.fromkeys(concept_lists.read(name), f"input '{origin}', list '{name}'")
        except ValueError as error:
            raise ValueError(f"{NAME}: input '{origin}': {error}.") from error
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
