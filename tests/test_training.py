"""Training an SAE: right gradients, the same result from one process and from two, and nothing lost on the way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from load import ROOT
from torch.nn import functional as F

D, L, K = 16, 64, 4


@pytest.fixture(scope="module")
def training(pack):
    from concept_erasure import training

    return training


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Products this small only wait for other threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def data(rows: int, seed: int = 0) -> torch.Tensor:
    """Embeddings made of few directions."""
    torch.manual_seed(0)
    directions = F.normalize(torch.randn(24, D), dim=1)
    torch.manual_seed(seed)
    return torch.rand(rows, 24) * (torch.rand(rows, 24) < 0.1) @ directions * 7 + 3


def fill(folder: Path, shards: int = 4, rows: int = 1000, labels: tuple[str, ...] = ()):
    from concept_erasure.training.store import Contents, Writer

    writer = Writer(folder, Contents("middle_block.1", D, labels=labels), 10**9)
    for shard in range(shards):
        x = data(rows, shard + 1)
        writer.add(x, 500, (x[:, :1] > 3).long() if labels else ())
        writer.flush(shard + 1)


@pytest.mark.parametrize("length", [17, 64, 640, 1536])
def test_the_largest_entries_are_found(training, length):
    from concept_erasure.training.sparse import largest

    x = torch.randn(50, length)
    assert torch.equal(x.gather(1, largest(x, K)).sort().values, x.topk(K).values.sort().values)


def test_sparse_products_equal_dense_ones(training):
    from concept_erasure.training.sparse import Firing

    dense = torch.randn(6, 10) * (torch.rand(6, 10) < 0.4)
    dense[2] = 0
    rows, latents = dense.nonzero(as_tuple=True)
    starts = torch.zeros(7, dtype=torch.int64)
    starts[1:] = (dense != 0).sum(1).cumsum(0)
    firing, values = Firing(latents, starts, 10), dense[dense != 0]
    a, b = torch.randn(6, 5), torch.randn(10, 5)
    assert torch.equal(firing.rows, rows)
    assert torch.allclose(firing.dots(a, b), (a @ b.T)[dense != 0], atol=1e-5)
    assert torch.allclose(firing.times(values, b), dense @ b, atol=1e-5)
    assert torch.allclose(firing.transposed_times(values, a), dense.T @ a, atol=1e-5)
    assert torch.allclose(firing.column_sums(values), dense.sum(0), atol=1e-5)


@pytest.mark.parametrize("rule", ["topk", "batchtopk"])
def test_gradients_are_those_of_the_loss(training, rule):
    """Against autograd on the loss as the docstring of objective.py writes it, with dead latents and labels."""
    from concept_erasure.training import objective
    from concept_erasure.training.team import Team

    torch.manual_seed(1)
    rows, aux_k, unexplained, concepts = 40, 5, 0.3, 3
    x, dead = torch.randn(rows, D), torch.arange(20, 40)
    labels = torch.randint(0, 2, (rows, concepts)).to(torch.uint8)
    labels[:7] = 255
    values = [torch.randn(L, D) / 4, torch.randn(L) / 4, torch.randn(D), F.normalize(torch.randn(L, D))]
    encoder, encoder_bias, bias, decoder = leaves = [value.clone().requires_grad_() for value in values]
    pre = (x - bias) @ encoder.T + encoder_bias
    if rule == "topk":
        kept = torch.zeros_like(pre).scatter(1, pre.topk(K).indices, 1.0)
    else:
        kept = (pre >= pre.flatten().topk(K * rows).values[-1]).float()
    residual = x - (pre.relu() * kept) @ decoder - bias
    loss = residual.square().sum() / (rows * D)
    dead_pre = pre[:, dead]
    aux_kept = torch.zeros_like(dead_pre).scatter(1, dead_pre.topk(aux_k).indices, 1.0)
    left = residual.detach() - (dead_pre.relu() * aux_kept) @ decoder[dead]
    loss = loss + left.square().sum() / (32 * rows * D * unexplained)
    known = labels != 255
    each = F.binary_cross_entropy_with_logits(pre[:, :concepts], labels.float() * known, reduction="none")
    loss = loss + 0.5 * (each * known).sum() / (rows * concepts)
    expected = torch.autograd.grad(loss, leaves)
    settings = training.TrainingSettings(aux_k=aux_k, guide_weight=0.5, rule=rule)
    found = objective.step(objective.Parameters(*values), x, labels, K, dead, unexplained, 0.0, settings, Team())
    for gradient, right in zip(found.gradients.tensors(), expected, strict=True):
        assert torch.allclose(gradient, right, atol=1e-6, rtol=1e-4)
    assert torch.equal(found.fired, ((pre.relu() * kept) > 0).sum(0).float())


def test_a_floor_above_the_threshold_does_no_harm(training):
    from concept_erasure.training.sparse import batch_topk_firing
    from concept_erasure.training.team import Team

    pre = torch.randn(30, L)
    results = [batch_topk_firing(pre, K, floor, Team()) for floor in (0.0, 0.5, 100.0)]
    assert all(torch.equal(firing.features, results[0][0].features) for firing, _ in results)
    assert len(results[0][0].features) == 30 * K


@pytest.mark.parametrize("rule", ["topk", "batchtopk"])
def test_the_first_encoder_is_of_fitting_size(training, rule):
    """A larger or smaller one would explain less, also where embeddings differ much in length."""
    from concept_erasure.sae_models.sae import SAEConfig

    x = (data(2000) - 3) * torch.linspace(0.1, 3, 2000)[torch.randperm(2000)][:, None]
    unexplained = []
    for factor in (0.8, 1.0, 1.25):
        trainer = training.Trainer(SAEConfig(D, L, K, "a"), training.TrainingSettings(rule=rule), x)
        trainer._parameters.encoder *= factor
        trainer.advance(x)
        unexplained.append(trainer.outcome.unexplained)
    assert unexplained[1] < min(unexplained[0], unexplained[2]), unexplained


def test_batch_topk_fires_k_times_on_average(training):
    from concept_erasure.sae_models.sae import SAEConfig

    settings = training.TrainingSettings(steps=400, batch=512, learning_rate=3e-3, rule="batchtopk")
    sae = training.train(data(8000), SAEConfig(D, L, K, "a"), settings)
    assert sae.config.activation == "jumprelu" and sae.threshold.unique().numel() == 1
    quality = training.measure(sae, data(2000, 9))
    assert quality.firing == pytest.approx(K, rel=0.1) and quality.explained_variance > 0.8


def test_bfloat16_changes_little(training):
    from concept_erasure.sae_models.sae import SAEConfig

    found = []
    for half in (False, True):
        settings = training.TrainingSettings(steps=300, batch=512, learning_rate=3e-3, bfloat16=half)
        found.append(training.measure(training.train(data(8000), SAEConfig(D, L, K, "a"), settings), data(2000, 9)))
    assert found[0].explained_variance == pytest.approx(found[1].explained_variance, abs=0.01)


def test_dead_latents_come_back(training):
    """Latents that point away from everything never fire; the auxiliary loss alone can revive them."""
    from concept_erasure.sae_models.sae import SAEConfig

    shares = []
    for aux_k in (0, 16):
        settings = training.TrainingSettings(steps=300, batch=256, learning_rate=3e-3, aux_k=aux_k, dead_after=2000)
        trainer = training.Trainer(SAEConfig(D, L, K, "a"), settings, data(4000))
        trainer._parameters.encoder[:30] *= 0.1
        for step in range(300):
            trainer.advance(data(256, step))
        shares.append(trainer.outcome.dead_share)
    assert shares[0] > 0.4 and shares[1] < 0.2


def test_labels_tie_latents_to_concepts(training, tmp_path):
    from concept_erasure.training.session import Session

    fill(tmp_path, labels=("big",))
    auc = []
    for weight in (0.0, 1.0):
        settings = training.TrainingSettings(steps=300, batch=250, learning_rate=3e-3, guide_weight=weight)
        session = Session(tmp_path, tmp_path / f"{weight}.ckpt", L, K, settings)
        session.advance(300)
        x = data(2000, 50)
        from concept_erasure.sae_models.scoring import roc_auc

        score, big = session.sae().pre_activations(x)[:, 0], x[:, 0] > 3
        auc.append(roc_auc(score[big], score[~big]))
    assert auc[1] > 0.8 > 0.5 > auc[0]


@pytest.mark.parametrize("rule", ["topk", "batchtopk"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(training, tmp_path, rule):
    from concept_erasure.training.session import Session

    fill(tmp_path / "store")
    settings = training.TrainingSettings(steps=60, batch=200, rule=rule, dead_after=1000)
    whole = Session(tmp_path / "store", tmp_path / "a", L, K, settings)
    whole.advance(60)

    def stop(session):
        if session.step == 33:
            raise KeyboardInterrupt

    part = Session(tmp_path / "store", tmp_path / "b", L, K, settings)
    with pytest.raises(KeyboardInterrupt):
        part.advance(60, stop)
    part.save()
    again = Session(tmp_path / "store", tmp_path / "b", L, K, settings)
    assert again.step == 33 and again.history == part.history
    again.advance(60)
    for key, value in whole.sae().state_dict().items():
        assert torch.equal(again.sae().state_dict()[key], value), key
    assert again.history == whole.history


def test_checkpoints_come_by_themselves_and_foreign_ones_are_refused(training, tmp_path, monkeypatch):
    from concept_erasure.training import session
    from concept_erasure.training.session import Session
    from concept_erasure.training.store import StoreError

    fill(tmp_path)
    path = tmp_path / "run"
    settings = training.TrainingSettings(steps=20, batch=100)
    monkeypatch.setattr(session, "SAVE_EVERY", 0.0)
    Session(tmp_path, path, L, K, settings).advance(3)
    assert Session(tmp_path, path, L, K, settings).step == 3
    with pytest.raises(StoreError, match=r"another training run \(its config differ\)"):
        Session(tmp_path, path, L, K + 1, settings)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(StoreError, match="no checkpoint"):
        Session(tmp_path, path, L, K, settings)


def test_nan_stops_training_and_spares_the_sae(training):
    from concept_erasure.sae_models.sae import SAEConfig
    from concept_erasure.training.trainer import NotFinite

    trainer = training.Trainer(SAEConfig(D, L, K, "a"), training.TrainingSettings(), data(100))
    trainer.advance(data(100))
    before = trainer.sae().state_dict()
    with pytest.raises(NotFinite):
        trainer.advance(torch.full((100, D), torch.nan))
    assert all(torch.equal(value, before[key]) for key, value in trainer.sae().state_dict().items())


@pytest.mark.parametrize("rule", [pytest.param("topk", marks=pytest.mark.research), "batchtopk"])
def test_two_processes_train_what_one_does(training, tmp_path, rule):
    """The same two streams, read by one process and by two: the same SAE, but for the order of sums."""
    from concept_erasure.sae_models.formats import load_whole, native
    from concept_erasure.training import command_line

    fill(tmp_path / "store")
    options = ["--features", str(L), "--k", str(K), "--steps", "80", "--batch", "200", "--streams", "2"]
    options += ["--rule", rule, "--dead-after", "2000", "--weights", "float32"]
    targets = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    command_line.main([str(tmp_path / "store"), str(targets[0]), *options])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, str(ROOT / "training"), str(tmp_path / "store"), str(targets[1]), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (dict(load_whole(native.SAEFile(target)).state_dict()) for target in targets)
    assert one["encoder.weight"].std() > 0.1
    for key, value in one.items():
        assert torch.allclose(value, two[key], atol=2e-4), (key, float((value - two[key]).abs().max()))
