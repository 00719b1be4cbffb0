"""One training run of one library on stored embeddings: ``python benchmarks/contestants.py NAME FILE OPTIONS``.

``benchmarks/trainers.py`` calls it, each time in a fresh process. FILE holds ``train [N, D]`` and ``held [M, D]``,
float32 at unit mean square. Each library takes its own step, with its own loss and optimiser; only data, sizes, the
number of steps and the learning rate are given. Prints JSON: seconds, processor seconds, and what the SAE explains of
``held``.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its kernels need a GPU
# Only gathering activations from a language model needs it, and it pins a long list of old packages.
sys.modules["nnsight"] = types.ModuleType("nnsight")
sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]

Encoder = Callable[[Tensor], tuple[Tensor, Tensor]]  # embeddings -> latents [B, L], reconstruction [B, D]
Contestant = Callable[[Iterator[Tensor], argparse.Namespace], Encoder]
AUX_WEIGHT = 1 / 32


def ours(batches: Iterator[Tensor], given: argparse.Namespace, **changed: object) -> Encoder:
    """The pack's own trainer."""
    from sae_models.sae import SAEConfig
    from sae_models.training import Trainer, TrainingSettings

    settings = TrainingSettings(given.steps, given.batch, given.rate, dead_after=given.dead_after, **changed)  # type: ignore[arg-type]
    trainer = Trainer(SAEConfig(given.width, given.latents, given.k, "a"), settings, next(batches))
    for _ in range(given.steps):
        trainer.advance(next(batches))
    sae = trainer.sae()

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        latents = sae.encode_dense(x)
        return latents, latents @ sae.decoder_weight + sae.decoder_bias

    return encode


def ours_bfloat16(batches: Iterator[Tensor], given: argparse.Namespace) -> Encoder:
    """The same, choosing latents in bfloat16: what the node does where the processor has it."""
    return ours(batches, given, bfloat16=True)


def ours_batchtopk(batches: Iterator[Tensor], given: argparse.Namespace) -> Encoder:
    """The same, with BatchTopK."""
    return ours(batches, given, rule="batchtopk")


def sparsify(batches: Iterator[Tensor], given: argparse.Namespace) -> Encoder:
    """EleutherAI sparsify: its SparseCoder and loss, with the steps of its trainer's loop, Adam."""
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(0)
    coder = SparseCoder(given.width, SparseCoderConfig(num_latents=given.latents, k=given.k))
    coder.b_dec.data = next(batches).mean(0)
    adam = torch.optim.Adam(coder.parameters(), lr=given.rate)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 100, 5 * (1 - step / given.steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(adam, rate)
    silent = torch.zeros(given.latents, dtype=torch.long)
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
        return torch.zeros(len(x), given.latents).scatter(1, indices, values), coder.decode(values, indices)

    return encode


def saelens(batches: Iterator[Tensor], given: argparse.Namespace) -> Encoder:
    """SAELens: its TopKTrainingSAE and SAETrainer."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=given.width, d_sae=given.latents, k=given.k))
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
        given.latents,
        given.k,
        0,
        "none",
        lr=given.rate,
        warmup_steps=min(100, given.steps // 4),
        decay_start=given.steps * 4 // 5,
        threshold_start_step=given.steps,
        seed=0,
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

    torch.manual_seed(0)
    sae = TopKSAE(given.width, given.latents, top_k=given.k, device="cpu")
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


def dense(batches: Iterator[Tensor], given: argparse.Namespace) -> Encoder:
    """The same TopK loss by autograd with dense products, as research code such as sdxl-unbox's computes it."""
    torch.manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(given.latents, given.width), dim=1).requires_grad_()
    encoder = decoder.detach().clone().requires_grad_()
    bias, latent_bias = next(batches).mean(0).requires_grad_(), torch.zeros(given.latents, requires_grad=True)
    adam = torch.optim.Adam([decoder, encoder, bias, latent_bias], lr=given.rate)

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        pre = (x - bias) @ encoder.T + latent_bias
        values, indices = pre.topk(given.k, dim=1)
        latents = torch.zeros_like(pre).scatter(1, indices, values.relu())
        return latents, latents @ decoder + bias

    for step in range(given.steps):
        adam.param_groups[0]["lr"] = given.rate * min(1.0, (step + 1) / 100, 5 * (1 - step / given.steps))
        x = next(batches)
        loss = (encode(x)[1] - x).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            decoder.copy_(torch.nn.functional.normalize(decoder, dim=1))
    return encode


CONTESTANTS: dict[str, Contestant] = {
    "ours": ours,
    "ours, bfloat16": ours_bfloat16,
    "ours, batchtopk": ours_batchtopk,
    "eai-sparsify": sparsify,
    "sae-lens": saelens,
    "dictionary-learning": dictionary_learning,
    "overcomplete": overcomplete,
    "dense autograd": dense,
}


def main() -> None:
    """Train one and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("file", type=Path)
    for option in ("latents", "k", "steps", "batch", "dead-after"):
        parser.add_argument(f"--{option}", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    tensors = load_file(given.file)
    rows, held = tensors["train"], tensors["held"]
    given.width = rows.shape[1]
    order = torch.Generator().manual_seed(0)
    # Drawing is the same work for all, and none of theirs: done before the clock starts. The first is for centring.
    drawn = [rows[torch.randint(len(rows), (given.batch,), generator=order)] for _ in range(given.steps + 1)]
    CONTESTANTS[given.name](iter([*drawn[:4]]), argparse.Namespace(**{**vars(given), "steps": 3}))  # warm up
    started, busy = time.perf_counter(), time.process_time()
    encode = CONTESTANTS[given.name](iter(drawn), given)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    with torch.no_grad():
        latents, reconstruction = encode(held)
    explained = 1 - (reconstruction - held).square().sum() / (held - held.mean(0)).square().sum()
    found = {
        "seconds": seconds,
        "processor_seconds": busy,
        "explained_variance": float(explained),
        "dead_share": float(((latents > 0).sum(0) == 0).float().mean()),
        "firing": float((latents > 0).sum(1).float().mean()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
