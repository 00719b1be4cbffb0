"""Files that the public libraries write, read by the pack and by the library that wrote them: ``nox -s compare``.

The libraries live in an environment of their own and are no part of the suite, hence the name without ``test_``.
"""

import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its kernels need a GPU
# Only gathering activations from a language model needs it, and it pins a long list of old packages.
sys.modules["nnsight"] = types.ModuleType("nnsight")
sys.modules["nnsight"].LanguageModel = object

from sae_models.formats import open_sae  # noqa: E402

D, L, K = 24, 96, 6
BLOCK = "unet.up_blocks.1.attentions.1"
X = torch.randn(50, D, generator=torch.Generator().manual_seed(1)) * 1.7 + 0.3


@torch.no_grad()
def shake(module: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter of a fresh SAE a value that matters; thresholds stay positive."""
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.5))
        if name == "threshold":
            parameter.abs_()
    return module


def sparsify(folder: Path, **config: Any) -> tuple[Tensor, Tensor]:
    from sparsify import SparseCoder, SparseCoderConfig

    made = shake(SparseCoder(D, SparseCoderConfig(num_latents=L, k=K, **config)))
    made.save_to_disk(folder)
    loaded = SparseCoder.load_from_disk(folder)
    values, indices, _ = loaded.encode(X)
    return torch.zeros(len(X), L).scatter(1, indices, values), loaded.decode(values, indices)


def saelens(folder: Path, kind: str, **config: Any) -> tuple[Tensor, Tensor]:
    import sae_lens

    settings = getattr(sae_lens, f"{kind}SAEConfig")(d_in=D, d_sae=L, **config)
    settings.metadata.hook_name = BLOCK
    shake(getattr(sae_lens, f"{kind}SAE")(settings)).save_model(folder)
    loaded = sae_lens.SAE.load_from_disk(folder)
    return loaded.encode(X), loaded(X)


def saelens_batchtopk(folder: Path, **config: Any) -> tuple[Tensor, Tensor]:
    import sae_lens

    settings = sae_lens.BatchTopKTrainingSAEConfig(d_in=D, d_sae=L, k=K, **config)
    made = shake(sae_lens.BatchTopKTrainingSAE(settings))
    made.topk_threshold.fill_(0.9)
    made.save_inference_model(folder)
    loaded = sae_lens.SAE.load_from_disk(folder)
    return loaded.encode(X), loaded(X)


TRAINERS = {
    "AutoEncoder": ("standard", "StandardTrainer"),
    "AutoEncoderTopK": ("top_k", "TopKTrainer"),
    "BatchTopKSAE": ("batch_top_k", "BatchTopKTrainer"),
    "MatryoshkaBatchTopKSAE": ("matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer"),
    "GatedAutoEncoder": ("gdm", "GatedSAETrainer"),
    "JumpReluAutoEncoder": ("jumprelu", "JumpReluTrainer"),
}


def dictionary_learning(folder: Path, kind: str, **options: Any) -> tuple[Tensor, Tensor]:
    import importlib

    module, trainer_name = TRAINERS[kind]
    module = importlib.import_module(f"dictionary_learning.trainers.{module}")
    common = {"activation_dim": D, "dict_size": L, "layer": 0, "lm_name": "unet", "submodule_name": BLOCK}
    trainer = getattr(module, trainer_name)(steps=5000, device="cpu", **common, **options)
    made = shake(trainer.ae)
    for name, buffer in made.named_buffers():
        if name == "threshold":
            buffer.fill_(0.8)
    folder.mkdir(parents=True)
    torch.save(made.state_dict(), folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": trainer.config, "buffer": {}}, default=str))
    loaded = getattr(module, kind).from_pretrained(folder / "ae.pt")
    latents = loaded.encode(X)
    return latents, loaded.decode(latents)


def overcomplete(folder: Path, kind: str, **settings: Any) -> tuple[Tensor, Tensor]:
    """The library leaves it to its user to write a state_dict, and what it does not hold into a file beside it."""
    import overcomplete.sae as library

    options = {"top_k": settings["top_k"]} if "top_k" in settings else {}
    made = shake(getattr(library, kind)(D, L, **options))
    if kind == "BatchTopKSAE":
        made.train()(X)
        settings["running_threshold"] = float(made.running_threshold)
    folder.mkdir(parents=True)
    torch.save(made.state_dict(), folder / "state_dict.pth")
    if kind != "JumpSAE":
        (folder / "config.json").write_text(json.dumps({"sae_class": kind, **settings}))
    made.eval()
    _, codes, restored = made(X)
    return codes, restored


CASES: dict[str, Callable[[Path], tuple[Tensor, Tensor]]] = {
    "sparsify topk": lambda folder: sparsify(folder),
    "sparsify groupmax": lambda folder: sparsify(folder, activation="groupmax"),
    "sparsify transcoder": lambda folder: sparsify(folder, transcode=True),
    "saelens standard": lambda folder: saelens(folder, "Standard"),
    "saelens topk": lambda folder: saelens(folder, "TopK", k=K),
    "saelens jumprelu": lambda folder: saelens(folder, "JumpReLU"),
    "saelens gated": lambda folder: saelens(folder, "Gated"),
    "saelens batchtopk": lambda folder: saelens_batchtopk(folder),
    "saelens uncentred": lambda folder: saelens(folder, "Standard", apply_b_dec_to_input=False),
    "saelens layer norm": lambda folder: saelens(folder, "TopK", k=K, normalize_activations="layer_norm"),
    "saelens constant norm": lambda folder: saelens(folder, "Standard", normalize_activations="constant_norm_rescale"),
    "saelens decoder norm": lambda folder: saelens(folder, "TopK", k=K, rescale_acts_by_decoder_norm=True),
    "overcomplete topk": lambda folder: overcomplete(folder, "TopKSAE", top_k=K),
    "overcomplete batchtopk": lambda folder: overcomplete(folder, "BatchTopKSAE", top_k=K * len(X)),
    "overcomplete jump": lambda folder: overcomplete(folder, "JumpSAE"),
    "overcomplete plain": lambda folder: overcomplete(folder, "SAE"),
    "dictionary_learning": lambda folder: dictionary_learning(folder, "AutoEncoder"),
    "dictionary_learning topk": lambda folder: dictionary_learning(folder, "AutoEncoderTopK", k=K),
    "dictionary_learning batchtopk": lambda folder: dictionary_learning(folder, "BatchTopKSAE", k=K),
    "dictionary_learning matryoshka": lambda folder: dictionary_learning(
        folder, "MatryoshkaBatchTopKSAE", k=K, group_fractions=[0.25, 0.75]
    ),
    "dictionary_learning gated": lambda folder: dictionary_learning(folder, "GatedAutoEncoder"),
    "dictionary_learning jumprelu": lambda folder: dictionary_learning(folder, "JumpReluAutoEncoder"),
}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_the_library_and_the_pack_agree(case: str, tmp_path: Path) -> None:
    folder = tmp_path / BLOCK
    latents, reconstruction = CASES[case](folder)
    file = open_sae(folder, inside=tmp_path)
    sae = file.load()
    file.load_decoder(sae)
    assert file.config.hookpoint == "output_blocks.4.1"
    assert (latents > 0).any() and (latents == 0).any(), "the case says nothing"
    torch.testing.assert_close(sae.encode_dense(X), latents, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(sae(X), reconstruction, atol=2e-4, rtol=1e-4)
