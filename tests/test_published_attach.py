"""Published files on a real model: what is detected while it samples is what a full encode of the block finds."""

import json

import pytest
import torch
from safetensors.torch import save_file
from support.calls import watch
from support.demo_model import MIDDLE as BLOCK
from support.demo_model import SMALL

L, K = 64, 6
CHOICE = f"{BLOCK} = mid_block.attentions.0"


def sdxl_unbox(folder, width):
    made = torch.Generator().manual_seed(5)
    weights = {
        "encoder.weight": torch.randn(L, width, generator=made),
        "decoder.weight": torch.randn(width, L, generator=made),
        "pre_bias": torch.randn(width, generator=made),
        "latent_bias": torch.randn(L, generator=made),
        "stats_last_nonzero": torch.zeros(L, dtype=torch.long),
    }
    torch.save({"state_dict": weights}, folder / "state_dict.pth")
    (folder / "config.json").write_text(json.dumps({"n_dirs_local": L, "d_model": width, "k": K}))


def normalised_batchtopk(folder, width):
    """As SAELens stores it: JumpReLU with one threshold, on layer-normalised inputs."""
    made = torch.Generator().manual_seed(6)
    weights = {
        "W_enc": torch.randn(width, L, generator=made),
        "b_enc": torch.randn(L, generator=made),
        "W_dec": torch.randn(L, width, generator=made),
        "b_dec": torch.randn(width, generator=made),
        "threshold": torch.full((L,), 2.0),
    }
    save_file(weights, folder / "sae_weights.safetensors")
    config = {"architecture": "jumprelu", "d_in": width, "d_sae": L, "normalize_activations": "layer_norm"}
    (folder / "cfg.json").write_text(json.dumps(config))


@pytest.fixture
def load(pack, tmp_path, monkeypatch):
    """Load a format's file through the SAE Loader, from the artist's own folder."""
    import folder_paths
    from concept_erasure import nodes
    from concept_erasure.nodes import files

    def loader(write, width, *choices):
        (tmp_path / "mine").mkdir()
        write(tmp_path / "mine", width)
        folder_paths.filename_list_cache.pop("sae", None)
        return nodes.SAELoader.execute("mine", CHOICE, *choices).args[0]

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sae", ([str(tmp_path)], set(files.EXTENSIONS)))
    yield loader
    folder_paths.filename_list_cache.pop("sae", None)


def patches_read(x, output, reads):
    """What an SAE of the block reads, [B, N, C]."""
    return (output if reads == "output" else output - x).flatten(2).transpose(1, 2)


def some_band(sae, seen):
    """Three latents that fire in about half of the patches, and thresholds that some patches exceed."""
    from concept_erasure.sae_models.concepts import ConceptBand

    read = torch.cat([patches_read(x, output, sae.config.reads) for _, x, output, _ in seen]).flatten(0, 1)
    features = sae.module.encode_dense(read)
    latents = ((features > 0).float().mean(0) - 0.5).abs().argsort()[:3]
    highest = float(features[:, latents].sum(-1).max())
    return ConceptBand(tuple(latents.tolist()), (0.4 * highest, 0.5 * highest, 0.6 * highest))


@pytest.mark.parametrize(
    ("write", "choices", "reads"),
    [
        (sdxl_unbox, (), "output_minus_input"),
        (sdxl_unbox, ("output",), "output"),
        (normalised_batchtopk, (), "output"),
        (normalised_batchtopk, ("residual",), "output_minus_input"),
    ],
)
def test_recorded_masks_are_those_of_a_full_encode(canvas, load, write, choices, reads):
    from concept_erasure.dev.demo_model.sampling import sample
    from concept_erasure.erasure.attach import attach
    from concept_erasure.erasure.detection import Detector
    from concept_erasure.erasure.replacement import Replacement
    from concept_erasure.sae_models.concepts import Concept
    from concept_erasure.sae_models.scoring import concept_score
    from concept_erasure.unet.blocks import hookpoints
    from concept_erasure.unet.hooks import attach_observer

    sae = load(write, hookpoints(canvas[0])[BLOCK], *choices)
    assert sae.config.reads == reads
    seen = watch(BLOCK)
    watched, asked = attach_observer(canvas[0], seen), ["A cat image in photo style", "A tree image in neon style"]
    sample(watched, canvas[1], asked, [1, 2], steps=3, size=SMALL)
    band = some_band(sae, seen.seen)
    concept = Concept("something", (0.0, 1000.0), (band,), "sum")
    seen.seen.clear()
    model, record = attach(watched, Detector(sae, concept), Replacement("none"))
    sample(model, canvas[1], asked, [1, 2], steps=3, size=SMALL)
    compared, found = 0, 0
    for _, x, output, call in seen.seen:
        features = sae.module.encode_dense(patches_read(x, output, reads))[..., list(band.features)]
        expected = concept_score(features, torch.tensor(band.thresholds), "sum") > 1
        for chunk in call.chunks:
            entry = record.latest.entries.get((BLOCK, chunk.key, float(call.sigma)))
            if entry is not None:
                assert torch.equal(entry.mask.flatten(1), expected[chunk.rows])
                compared += entry.mask.numel()
                found += int(entry.mask.sum())
    assert 0 < found < compared
