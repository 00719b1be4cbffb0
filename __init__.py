"""SAE Concept Erasure: erase, swap and localize concepts in any SD/SDXL graph with sparse autoencoders."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> object:
    """Hand ComfyUI the nodes of this pack; nothing is imported before the host asks."""
    from .nodes import ConceptErasureExtension

    return ConceptErasureExtension()
