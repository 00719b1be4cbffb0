"""The nodes of the pack, by id: workflows out in the world name them, so neither column may change."""

NODES = {
    "ConceptErasureSAELoader": "SAE Loader",
    "ConceptErasureSAESave": "SAE Save",
    "ConceptErasureSAETrainer": "SAE Trainer",
    "ConceptErasureDetector": "Concept Detector",
    "ConceptErasureConceptFinder": "Concept Finder",
    "ConceptErasureConceptFromMask": "Concept From Mask",
    "ConceptErasureLatentExplorer": "Latent Explorer",
    "ConceptErasureSaveConcept": "Save Concept",
    "ConceptErasureLoadConcept": "Load Concept",
    "ConceptErasureConceptMath": "Concept Math",
    "ConceptErasureMaskRefiner": "Mask Refiner",
    "ConceptErasurePatchReplacer": "Patch Replacer",
    "ConceptErasureLatentSteering": "Latent Steering",
    "ConceptErasureDetectionPreview": "Detection Preview",
    "ConceptErasureReport": "Erasure Report",
    "ConceptErasureCanvasCheckpoint": "Canvas Checkpoint",
}
