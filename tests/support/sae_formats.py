"""Small SAE files as each public library writes them, and an independent float64 transcription of each formula.

``CASES`` has for each format the file's name, its tensors, its configuration, and the function from embeddings to
latents.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

D, L, K, N = 16, 48, 6, 40
BLOCK = "up_blocks.1.attentions.1"
NATIVE = "output_blocks.4.1"


def random(*shape: int) -> torch.Tensor:
    """Numbers that depend on the shape alone, so that writer and transcription agree."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


X = torch.randn(N, D, generator=torch.Generator().manual_seed(99))
ENC, DEC = random(L, D), random(L, D) + 0.1
B_ENC, B_DEC = 0.3 * random(L), 0.3 * random(D)
THETA, R_MAG, B_GATE = random(L).abs(), 0.2 * random(L + 1)[:L], 0.5 * random(L + 2)[:L]


def n(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


def largest(a: np.ndarray) -> np.ndarray:
    """Which entries are among the K largest of their row."""
    kept = np.zeros_like(a, dtype=bool)
    np.put_along_axis(kept, np.argsort(-a, axis=1)[:, :K], True, axis=1)
    return kept


def relu(a: np.ndarray) -> np.ndarray:
    return np.maximum(a, 0)


def affine(x: np.ndarray, center: bool = True) -> np.ndarray:
    return (x - n(B_DEC) if center else x) @ n(ENC).T + n(B_ENC)


def layer_norm(x: np.ndarray) -> np.ndarray:
    """With the deviation of a sample, as torch's std() has it and the libraries use it."""
    return (x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True, ddof=1) + 1e-5)


def topk(x):
    return np.where(largest(affine(x)), relu(affine(x)), 0)


def transcode(x):
    return np.where(largest(affine(x, False)), relu(affine(x, False)), 0)


def groupmax(x):
    a = relu(affine(x)).reshape(N, K, L // K)
    out = np.zeros_like(a)
    place = a.argmax(2)[..., None]
    np.put_along_axis(out, place, np.take_along_axis(a, place, 2), 2)
    return out.reshape(N, L)


def sigmoid_topk(x):
    return np.where(largest(affine(x)), 1 / (1 + np.exp(-affine(x))), 0)


def jumprelu(x, theta=None, center=True):
    theta = n(THETA) if theta is None else theta
    return np.where(affine(x, center) > theta, relu(affine(x, center)), 0)


def to_unit_decoder(x):
    """dictionary_learning brings the decoder of an AutoEncoder to length one, and its latents with it."""
    return relu(affine(x)) * np.linalg.norm(n(DEC), axis=1)


def gated(x):
    product = (x - n(B_DEC)) @ n(ENC).T
    magnitude = relu(product * np.exp(n(R_MAG)) + n(B_ENC))
    return np.where(product + n(B_GATE) > 0, magnitude, 0)


def rescaled(x):
    a = affine(x) * np.linalg.norm(n(DEC), axis=1)
    return np.where(largest(a), relu(a), 0)


SPARSIFY = {"encoder.weight": ENC, "encoder.bias": B_ENC, "W_dec": DEC, "b_dec": B_DEC}
PRE_BIAS = {"pre_bias": B_DEC, "encoder.weight": ENC, "latent_bias": B_ENC, "decoder.weight": DEC.T}
LENS = {"W_enc": ENC.T, "b_enc": B_ENC, "W_dec": DEC, "b_dec": B_DEC}
GATES = {"W_enc": ENC.T, "b_mag": B_ENC, "b_gate": B_GATE, "r_mag": R_MAG, "W_dec": DEC, "b_dec": B_DEC}
LEARNING = {"encoder.weight": ENC, "encoder.bias": B_ENC, "decoder.weight": DEC.T}
SAEURON = {"expansion_factor": 16, "normalize_decoder": True, "num_latents": L, "k": K, "batch_topk": True, "d_in": D}


def lens(architecture: str, **more) -> dict:
    return {"architecture": architecture, "d_in": D, "d_sae": L, **more}


def learning(dict_class: str, **more) -> dict:
    return {"trainer": {"dict_class": dict_class, "activation_dim": D, "dict_size": L, **more}, "buffer": {}}


OVERCOMPLETE = {
    "encoder.final_block.0.weight": ENC,
    "encoder.final_block.0.bias": B_ENC,
    "dictionary._weights": DEC,
    "dictionary.multiplier": torch.tensor(0.0),
}

CASES = {
    "saeuron": ("sae.safetensors", SPARSIFY, SAEURON, topk),
    "saeuron normalised": (
        "sae.safetensors",
        SPARSIFY,
        {**SAEURON, "input_unit_norm": True},
        lambda x: topk(layer_norm(x)),
    ),
    "overcomplete topk": ("state_dict.pth", OVERCOMPLETE, {"sae_class": "TopKSAE", "top_k": K}, transcode),
    "overcomplete plain": ("state_dict.pth", OVERCOMPLETE, {"sae_class": "SAE"}, lambda x: relu(affine(x, False))),
    "overcomplete jump": (
        "state_dict.pth",
        {**OVERCOMPLETE, "thresholds": THETA.log()},
        {},
        lambda x: np.where(affine(x, False) > n(THETA), affine(x, False), 0),
    ),
    "overcomplete batchtopk": (
        "state_dict.pth",
        OVERCOMPLETE,
        {"sae_class": "BatchTopKSAE", "running_threshold": 0.7},
        lambda x: np.where(affine(x, False) > 0.7, affine(x, False), 0),
    ),
    "groupmax": ("sae.safetensors", SPARSIFY, {"activation": "groupmax", "k": K, "d_in": D}, groupmax),
    "transcoder": ("sae.safetensors", SPARSIFY, {"transcode": True, "k": K, "d_in": D}, transcode),
    "sdxl-unbox": (
        "state_dict.pth",
        {"state_dict": {**PRE_BIAS, "stats_last_nonzero": torch.zeros(L, dtype=torch.long)}},
        {"n_dirs_local": L, "d_model": D, "k": K, "auxk": 256, "dead_steps_threshold": 10},
        topk,
    ),
    "g-sae": (
        "state_dict.pth",
        {"models_state_dict": [PRE_BIAS]},
        {"n_inputs": D, "factor": 3, "k": K, "activation": "TopK", "normalize": False},
        sigmoid_topk,
    ),
    "g-sae normalised": (
        "state_dict.pth",
        {"models_state_dict": [PRE_BIAS]},
        {"n_inputs": D, "factor": 3, "k": K, "activation": "TopK", "normalize": True},
        lambda x: sigmoid_topk(layer_norm(x)),
    ),
    "g-sae jumprelu": (
        "state_dict.pth",
        {"models_state_dict": [{**PRE_BIAS, "threshold": THETA.log()}]},
        {"n_inputs": D, "factor": 3, "activation": "JumpReLU", "normalize": False},
        jumprelu,
    ),
    "saelens standard": ("sae_weights.safetensors", LENS, lens("standard"), lambda x: relu(affine(x))),
    "saelens topk": ("sae_weights.safetensors", LENS, lens("topk", k=K), topk),
    "saelens topk before version 6": (
        "sae_weights.safetensors",
        LENS,
        lens("standard", activation_fn_str="topk", activation_fn_kwargs={"k": K}),
        topk,
    ),
    "saelens jumprelu": ("sae_weights.safetensors", {**LENS, "threshold": THETA}, lens("jumprelu"), jumprelu),
    "saelens batchtopk": ("sae_weights.safetensors", {**LENS, "threshold": THETA}, lens("batchtopk"), jumprelu),
    "saelens gated": ("sae_weights.safetensors", GATES, lens("gated"), gated),
    "saelens uncentred": (
        "sae_weights.safetensors",
        LENS,
        lens("topk", k=K, apply_b_dec_to_input=False),
        transcode,
    ),
    "saelens layer norm": (
        "sae_weights.safetensors",
        LENS,
        lens("topk", k=K, normalize_activations="layer_norm"),
        lambda x: topk(layer_norm(x)),
    ),
    "saelens constant norm": (
        "sae_weights.safetensors",
        LENS,
        lens("topk", k=K, normalize_activations="constant_norm_rescale"),
        lambda x: topk(x * np.sqrt(D) / np.linalg.norm(x, axis=1, keepdims=True)),
    ),
    "saelens decoder norm": (
        "sae_weights.safetensors",
        LENS,
        lens("topk", k=K, rescale_acts_by_decoder_norm=True),
        rescaled,
    ),
    "dictionary_learning": (
        "ae.pt",
        {**LEARNING, "bias": B_DEC},
        learning("AutoEncoder"),
        to_unit_decoder,
    ),
    "dictionary_learning jumprelu": (
        "ae.pt",
        {**LENS, "threshold": THETA},
        learning("JumpReluAutoEncoder"),
        lambda x: jumprelu(x, center=False),
    ),
    "dictionary_learning matryoshka": (
        "ae.pt",
        {**LENS, "k": torch.tensor(K), "threshold": torch.tensor(0.7), "group_sizes": torch.tensor([16, 32])},
        learning("MatryoshkaBatchTopKSAE", k=K),
        lambda x: jumprelu(x, 0.7),
    ),
    "dictionary_learning topk": (
        "ae.pt",
        {**LEARNING, "b_dec": B_DEC, "k": torch.tensor(K)},
        learning("AutoEncoderTopK", k=K),
        topk,
    ),
    "dictionary_learning batchtopk": (
        "ae.pt",
        {**LEARNING, "b_dec": B_DEC, "k": torch.tensor(K), "threshold": torch.tensor(0.7)},
        learning("BatchTopKSAE", k=K),
        lambda x: jumprelu(x, 0.7),
    ),
    "dictionary_learning gated": (
        "ae.pt",
        {
            "encoder.weight": ENC,
            "decoder.weight": DEC.T,
            "mag_bias": B_ENC,
            "gate_bias": B_GATE,
            "r_mag": R_MAG,
            "decoder_bias": B_DEC,
        },
        learning("GatedAutoEncoder"),
        gated,
    ),
}


def write(folder: Path, case: str) -> Path:
    """Write a case as its library would, in a folder that names the block as its library would."""
    name, tensors, config, _ = CASES[case]
    path = folder / f"unet.{BLOCK}"
    path.mkdir(parents=True)
    if name.endswith(".safetensors"):
        save_file({key: value.contiguous() for key, value in tensors.items()}, path / name)
    else:
        torch.save(tensors, path / name)
    (path / ("config.json" if name.endswith((".pth", ".pt")) else "cfg.json")).write_text(json.dumps(config))
    return path
