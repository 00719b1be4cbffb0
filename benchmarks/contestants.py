"""One training run of one library on stored embeddings: ``python benchmarks/contestants.py NAME FILE OPTIONS``.

``benchmarks/trainers.py`` calls it, each time in a fresh process, and says what FILE holds. Each library takes its own
step, with its own loss and optimiser; only data, sizes, the number of steps and the learning rate are given. Prints
JSON: seconds, CPU seconds, what the SAE explains of the ``tuning`` and ``reporting`` patches, and how well
objects are detected with it.
"""

import argparse
import json
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

# The pack as a package without its nodes, which need ComfyUI.
PACK = types.ModuleType("concept_erasure")
PACK.__path__ = [str(Path(__file__).resolve().parent.parent)]
sys.modules["concept_erasure"] = PACK
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its kernels need a GPU
# Only gathering activations from a language model needs it, and it pins a long list of old packages.
sys.modules["nnsight"] = types.ModuleType("nnsight")
sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]

Encoder = Callable[[Tensor], tuple[Tensor, Tensor]]  # embeddings -> latents [B, L], reconstruction [B, D]
Contestant = Callable[[Iterator[Tensor], argparse.Namespace], Encoder]
AUX_WEIGHT = 1 / 32


def ours(batches: Iterator[Tensor], given: argparse.Namespace, **changed: object) -> Encoder:
    """The pack's own trainer."""
    from concept_erasure.sae_models.sae import SAEConfig
    from concept_erasure.training import Trainer, TrainingSettings

    settings = TrainingSettings(
        given.steps, given.batch, given.rate, dead_after=given.dead_after, seed=given.seed, **changed
    )  # type: ignore[arg-type]
    trainer = Trainer(SAEConfig(given.width, given.features, given.k, "a"), settings, next(batches))
    for _ in range(given.steps):
        trainer.advance(next(batches))
    sae = trainer.sae()

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        latents = sae.encode_dense(x)
        return latents, latents @ sae.decoder_weight + sae.decoder_bias

    return encode


def ours_bfloat16(batches: Iterator[Tensor], given: argparse.Namespace) -> Encoder:
    """The same, choosing latents in bfloat16: what the node does where the CPU has it."""
    return ours(batches, given, bfloat16=True)


def ours_batchtopk(batches: Iterator[Tensor], given: argparse.Namespace) -> Encoder:
    """The same, with BatchTopK."""
    return ours(batches, given, rule="batchtopk")


def sparsify(batches: Iterator[Tensor], given: argparse.Namespace) -> Encoder:
    """EleutherAI sparsify: its SparseCoder and loss, with the steps of its trainer's loop, Adam."""
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(given.seed)
    coder = SparseCoder(given.width, SparseCoderConfig(num_latents=given.features, k=given.k))
    coder.b_dec.data = next(batches).mean(0)
    adam = torch.optim.Adam(coder.parameters(), lr=given.rate)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 100, 5 * (1 - step / given.steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(adam, rate)
    silent = torch.zeros(given.features, dtype=torch.long)
    for _ in range(given.steps):
        coder.set_decoder_norm_to_unit_norm()
        x = next(batches)
        out = coder(x, dead_mask=silent > given.dead_after)
        (out.fvu + AUX_WEIGHT * out.auxk_loss).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        schedule.step()
        silent += len(x)
        silent[out.latent_indices.flatten().unique()] = 0

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        values, indices, _ = coder.encode(x)
        return torch.zeros(len(x), given.features).scatter(1, indices, values), coder.decode(values, indices)

    return encode


def saelens(batches: Iterator[Tensor], given: argparse.Namespace) -> Encoder:
    """SAELens: its TopKTrainingSAE and SAETrainer."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(given.seed)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=given.width, d_sae=given.features, k=given.k))
    config = SAETrainerConfig(
        total_training_samples=given.steps * given.batch,
        train_batch_size_samples=given.batch,
        lr=given.rate,
        lr_end=given.rate / 10,
        lr_warm_up_steps=min(100, given.steps // 4),
        lr_decay_steps=given.steps // 5,
        dead_feature_window=max(1, given.dead_after // given.batch),
        logger=LoggingConfig(log_to_wandb=False),
    )
    next(batches)
    SAETrainer(config, sae, batches).fit()
    sae.eval()

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        latents = sae.encode(x)
        latents = latents.to_dense() if latents.is_sparse else latents
        return latents, sae.decode(latents)

    return encode


def dictionary_learning(batches: Iterator[Tensor], given: argparse.Namespace) -> Encoder:
    """dictionary_learning: its TopKTrainer."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        given.steps,
        given.width,
        given.features,
        given.k,
        0,
        "none",
        lr=given.rate,
        warmup_steps=min(100, given.steps // 4),
        decay_start=given.steps * 4 // 5,
        threshold_start_step=given.steps,
        seed=given.seed,
        device="cpu",
    )
    trainer.dead_feature_threshold = given.dead_after
    next(batches)
    for step in range(given.steps):
        trainer.update(step, next(batches))

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        latents = trainer.ae.encode(x, use_threshold=False)
        return latents, trainer.ae.decode(latents)

    return encode


def overcomplete(batches: Iterator[Tensor], given: argparse.Namespace) -> Encoder:
    """overcomplete: its TopKSAE and train_sae, with a squared error."""
    from overcomplete.sae import TopKSAE, train_sae

    torch.manual_seed(given.seed)
    sae = TopKSAE(given.width, given.features, top_k=given.k, device="cpu")
    adam = torch.optim.Adam(sae.parameters(), lr=given.rate)
    next(batches)
    loader = [next(batches) for _ in range(given.steps)]

    def loss(x: Tensor, reconstruction: Tensor, *_: Tensor) -> Tensor:
        return (x - reconstruction).square().mean()

    train_sae(sae, loader, loss, adam, nb_epochs=1, monitoring=0, device="cpu")
    sae.eval()

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        _, latents, reconstruction = sae(x)
        return latents, reconstruction

    return encode


def unbox(batches: Iterator[Tensor], given: argparse.Namespace) -> Encoder:
    """sdxl-unbox's loop, after OpenAI's, transcribed: autograd, decoding by a sparse product, AuxK as in its config."""
    torch.manual_seed(given.seed)
    sample = next(batches)
    encoder = torch.nn.Linear(given.width, given.features, bias=False)
    decoder = torch.nn.Parameter(torch.nn.functional.normalize(encoder.weight.detach().clone(), dim=1))
    bias = torch.nn.Parameter(geometric_median(sample))
    latent_bias = torch.nn.Parameter(torch.zeros(given.features))
    parameters = [encoder.weight, decoder, bias, latent_bias]
    adam = torch.optim.Adam(parameters, lr=given.rate, eps=6.25e-10, fused=True)
    scale = 1 / (sample - sample.mean(0)).square().mean()
    silent = torch.zeros(given.features, dtype=torch.long)

    def decode(values: Tensor, indices: Tensor) -> Tensor:
        rows = torch.arange(len(values))[:, None].expand_as(values)
        places = torch.stack([rows.flatten(), indices.flatten()])
        sparse = torch.sparse_coo_tensor(places, values.flatten(), (len(values), given.features))
        return torch.sparse.mm(sparse, decoder) + bias

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = (encoder(x - bias) + latent_bias).topk(given.k, dim=1)
        return torch.zeros(len(x), given.features).scatter(1, indices, values.relu()), decode(values.relu(), indices)

    for _ in range(given.steps):
        x = next(batches)
        pre = encoder(x - bias) + latent_bias
        values, indices = pre.topk(given.k, dim=1)
        silent += 1
        silent[indices[values > 1e-3]] = 1
        aux, dead = (pre * (silent > given.dead_after // len(x))).topk(min(256, given.features), dim=1)
        reconstruction = decode(values.relu(), indices)
        left = x - reconstruction.detach() + bias.detach()
        error = (decode(aux.relu(), dead) - left).square().mean() / (left.mean(0) - left).square().mean()
        (scale * (reconstruction - x).square().mean() + AUX_WEIGHT * error.nan_to_num(0)).backward()
        with torch.no_grad():
            decoder /= decoder.norm(dim=1, keepdim=True)
            decoder.grad -= (decoder * decoder.grad).sum(1, keepdim=True) * decoder
        adam.step()
        adam.zero_grad()
    return encode


def geometric_median(points: Tensor, rounds: int = 100) -> Tensor:
    """Return the point whose distances to all points [N, D] have the least sum, by Weiszfeld's rounds."""
    median = points.mean(0)
    for _ in range(rounds):
        weights = 1 / (points - median).norm(dim=1).clamp(min=1e-6)
        median = (points * weights[:, None]).sum(0) / weights.sum()
    return median


CONTESTANTS: dict[str, Contestant] = {
    "ours": ours,
    "ours, bfloat16": ours_bfloat16,
    "ours, batchtopk": ours_batchtopk,
    "eai-sparsify": sparsify,
    "sae-lens": saelens,
    "dictionary-learning": dictionary_learning,
    "overcomplete": overcomplete,
    "sdxl-unbox (transcribed)": unbox,
}


def explained(encode: Encoder, patches: Tensor) -> dict[str, float]:
    """Return the explained variance of patches [N, D], the share of latents that never fire, and the mean that do."""
    residual = firing = 0.0
    fired = torch.zeros(0)
    for part in patches.split(8192):
        latents, reconstruction = encode(part)
        residual += float((reconstruction - part).square().sum())
        firing += float((latents > 0).sum())
        fired = (latents > 0).any(0) if not len(fired) else fired | (latents > 0).any(0)
    return {
        "explained_variance": 1 - residual / float((patches - patches.mean(0)).square().sum()),
        "dead_share": float((~fired).float().mean()),
        "firing": firing / len(patches),
    }


def detection(encode: Encoder, tensors: dict[str, Tensor]) -> float:
    """Return the mean ROC-AUC of all objects in the patches of the reporting scenes.

    For each object the pack's own search chooses and weighs latents on the tuning scenes alone, where every other scene
    decides how many.
    """
    from concept_erasure.finding.selection import Patches, find_by_detection
    from concept_erasure.sae_models.scoring import roc_auc

    latents = {}
    for split in ("tuning", "reporting"):
        scenes = tensors[f"scenes_{split}"]
        latents[split] = torch.cat([encode(part)[0] for part in scenes.flatten(0, 1).split(8192)])
    values, indices = latents["tuning"].topk(64, dim=1)
    image = torch.arange(len(tensors["scenes_tuning"])).repeat_interleave(tensors["scenes_tuning"].shape[1])
    areas = []
    for row in range(len(tensors["cover_tuning"])):
        cover = tensors["cover_tuning"][row].flatten()
        clear = (cover > 0.5) | (cover < 0.02)
        patches = Patches(values.half(), indices.int(), cover > 0.5, image, image % 2 == 1, False).rows(clear)
        band = find_by_detection(patches, latents["tuning"].shape[1]).band
        cover = tensors["cover_reporting"][row].flatten()
        score = (latents["reporting"][:, list(band.features)] / torch.tensor(band.thresholds)).sum(1)
        areas.append(roc_auc(score[cover > 0.5], score[cover < 0.02]) if band.features else 0.5)
    return sum(areas) / len(areas)


def main() -> None:
    """Train one and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("file", type=Path)
    for option in ("features", "k", "steps", "batch", "dead-after", "seed"):
        parser.add_argument(f"--{option}", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--detect", action="store_true", help="also measure detection")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    tensors = load_file(given.file)
    rows = tensors["train"]
    given.width = rows.shape[1]
    order = torch.Generator().manual_seed(given.seed)
    # Drawing is the same work for all, and none of theirs: done before the clock starts. The first is for centring.
    drawn = [rows[torch.randint(len(rows), (given.batch,), generator=order)] for _ in range(given.steps + 1)]
    CONTESTANTS[given.name](iter([*drawn[:4]]), argparse.Namespace(**{**vars(given), "steps": 3}))  # warm up
    started, busy = time.perf_counter(), time.process_time()
    encode = CONTESTANTS[given.name](iter(drawn), given)
    found: dict[str, object] = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - busy,
    }
    with torch.no_grad():
        found |= {part: explained(encode, tensors[part]) for part in ("tuning", "reporting")}
        if given.detect:
            found["auc"] = detection(encode, tensors)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
