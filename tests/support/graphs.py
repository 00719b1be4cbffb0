"""Small graphs as the server takes them, node by node."""

from typing import Any

from .demo_model import SAE_FILE, SMALL_SIDE

Node = dict[str, Any]


def node(kind: str, **inputs: Any) -> Node:
    """A node; a link is [node id, output]."""
    return {"class_type": kind, "inputs": inputs}


def base() -> dict[str, Node]:
    """Checkpoint 1, SAE 2, a detector 3 of the cat, prompts 5 and 6."""
    return {
        "1": node("ConceptErasureCanvasCheckpoint"),
        "2": node("ConceptErasureSAELoader", sae_file=SAE_FILE, hookpoint="automatic", sae_input="automatic"),
        "3": node(
            "ConceptErasureConceptDetector",
            sae=["2", 0],
            concept="cat",
            sensitivity=2.0,
            start_percent=0.0,
            end_percent=1.0,
            features="",
            more_concepts="",
            join_mode="union",
        ),
        "5": node("CLIPTextEncode", clip=["1", 1], text="A cat image in photo style"),
        "6": node("CLIPTextEncode", clip=["1", 1], text=""),
    }


def replacer(mode: str = "similar", rest: str = "may change") -> Node:
    """A Patch Replacer at its defaults, but in one pass unless asked."""
    return node(
        "ConceptErasurePatchReplacer",
        model=["1", 0],
        detection=["3", 0],
        replacement=mode,
        replace_at="middle and SAE block",
        source_share=0.25,
        apply_to="positive",
        source_seed=0,
        blocks="",
        rest=rest,
        attempts=2,
        fill_shows="background",
    )


def sampler(model: str, latent: list[Any], seed: int, steps: int = 4) -> Node:
    """A KSampler."""
    return node(
        "KSampler",
        model=[model, 0],
        positive=["5", 0],
        negative=["6", 0],
        latent_image=latent,
        seed=seed,
        steps=steps,
        cfg=4.5,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )


def empty(count: int = 1) -> Node:
    """An Empty Latent Image."""
    return node("EmptyLatentImage", width=SMALL_SIDE, height=SMALL_SIDE, batch_size=count)


def decode(latent: list[Any]) -> Node:
    """A VAE Decode."""
    return node("VAEDecode", samples=latent, vae=["1", 2])


def preview(record: list[Any], image: list[Any], latent: list[Any] | None, tiles: int = 0) -> Node:
    """A Detection Preview."""
    link = {} if latent is None else {"latent": latent}
    return node(
        "ConceptErasureDetectionPreview", record=record, image=image, tiles=tiles, mask_from="share of steps", **link
    )


def text_of(entry: dict[str, Any], node_id: str) -> str:
    """What a node said in a finished run."""
    return " ".join(entry["outputs"][node_id]["text"])
