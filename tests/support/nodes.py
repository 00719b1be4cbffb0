"""The nodes of the pack, by id: workflows out in the world name them, so neither column may change."""

NODES = {
    "ConceptErasureSAELoader": "SAE Loader",
    "ConceptErasureSaveSAE": "Save SAE",
    "ConceptErasureSAETrainer": "SAE Trainer",
    "ConceptErasureConceptDetector": "Concept Detector",
    "ConceptErasureConceptFinder": "Concept Finder",
    "ConceptErasureConceptFromMask": "Concept From Mask",
    "ConceptErasureFeatureExplorer": "Feature Explorer",
    "ConceptErasureSaveConcept": "Save Concept",
    "ConceptErasureLoadConcept": "Load Concept",
    "ConceptErasureConceptMath": "Concept Math",
    "ConceptErasureMaskRefiner": "Mask Refiner",
    "ConceptErasurePatchReplacer": "Patch Replacer",
    "ConceptErasureFeatureSteering": "Feature Steering",
    "ConceptErasureDetectInImage": "Detect In Image",
    "ConceptErasureDetectionPreview": "Detection Preview",
    "ConceptErasureErasureReport": "Erasure Report",
    "ConceptErasureCanvasCheckpoint": "Canvas Checkpoint",
}
