"""What the artist sees: one file a node."""

from comfy_api.latest import ComfyExtension, io

from . import files
from .canvas_checkpoint import CanvasCheckpoint
from .concept_detector import ConceptDetector
from .concept_finder import ConceptFinder
from .concept_from_mask import ConceptFromMask
from .concept_load import LoadConcept
from .concept_math import ConceptMath
from .concept_save import SaveConcept
from .detect_in_image import DetectInImage
from .detection_preview import DetectionPreview
from .erasure_report import ErasureReport
from .feature_explorer import FeatureExplorer
from .feature_steering import FeatureSteering
from .mask_refiner import MaskRefiner
from .patch_replacer import PatchReplacer
from .sae_loader import SAELoader
from .sae_save import SaveSAE
from .sae_trainer import SAETrainer


class ConceptErasureExtension(ComfyExtension):
    """The nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the nodes in the order of the data's way through the graph."""
        files.register_folder()
        return [
            SAELoader,
            SaveSAE,
            SAETrainer,
            ConceptDetector,
            ConceptFinder,
            ConceptFromMask,
            FeatureExplorer,
            SaveConcept,
            LoadConcept,
            ConceptMath,
            MaskRefiner,
            PatchReplacer,
            FeatureSteering,
            DetectInImage,
            DetectionPreview,
            ErasureReport,
            CanvasCheckpoint,
        ]
