"""Train an SAE on a store of patch embeddings, without ComfyUI.

Run it in the pack's folder: ``python training STORE TARGET``, or in many processes with
``torchrun --nproc-per-node 8 training STORE TARGET``. It needs PyTorch and safetensors. What was trained is kept in
TARGET.training and taken up again by the same command; Ctrl-C writes the SAE as it is.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ..sae_models.formats import native
from .quality import Quality
from .session import Session, measure_on
from .settings import RULES, TrainingSettings
from .store import StoreError, shards
from .team import Team, assemble
from .trainer import NotFinite

WEIGHTS = {"float16": torch.float16, "float32": torch.float32}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    defaults = TrainingSettings()
    parser = argparse.ArgumentParser(prog="python training", description=__doc__)
    parser.add_argument("store", type=Path, help="folder of the shards; held/ in it is for measuring")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    parser.add_argument("--features", type=int, default=0, help="features of the SAE (16 times the width)")
    parser.add_argument("--k", type=int, default=32, help="features that fire in an embedding (32)")
    parser.add_argument("--rule", choices=RULES, default=defaults.rule)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=4096, help="embeddings a step, over all processes (4096)")
    parser.add_argument("--learning-rate", type=float, default=0.0, help="0 chooses one by the number of features")
    parser.add_argument("--aux-k", type=int, default=256, help="dead features that the auxiliary loss trains (256)")
    parser.add_argument("--dead-after", type=int, default=1_000_000, help="embeddings without firing (1000000)")
    parser.add_argument("--guide-weight", type=float, default=1.0, help="of the guided loss, if the store has labels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--streams", type=int, default=0, help="shares the store is read in (one for each process)")
    parser.add_argument("--buffer-mb", type=int, default=1000, help="embeddings that a process mixes at a time (1000)")
    parser.add_argument("--bfloat16", action="store_true", help="choose features in bfloat16, see TrainingSettings")
    parser.add_argument("--weights", choices=WEIGHTS, default="float16", help="how numbers are stored (float16)")
    given = parser.parse_args(arguments)
    if given.target.suffix != ".safetensors":
        raise SystemExit(f"{given.target}: the name of the file to write must end in .safetensors")
    return given


def train(given: argparse.Namespace, team: Team) -> None:
    """Train as the command line says, and write the SAE."""
    there = shards(given.store)
    if not there:
        raise StoreError(f"{given.store} holds no patch embeddings")
    settings = TrainingSettings(
        steps=given.steps,
        batch=given.batch,
        learning_rate=given.learning_rate,
        aux_k=given.aux_k,
        dead_after=given.dead_after,
        seed=given.seed,
        bfloat16=given.bfloat16,
        rule=given.rule,
        guide_weight=given.guide_weight,
    )
    features = given.features or 16 * there[0].contents.d_in
    state = given.target.with_suffix(".training")
    buffer = given.buffer_mb * 1_000_000
    session = Session(given.store, state, features, given.k, settings, team, given.streams, buffer)
    printed, started, first = time.monotonic(), time.monotonic(), session.step

    def report(session: Session) -> None:
        nonlocal printed
        if team.rank == 0 and (time.monotonic() - printed > 10 or session.step == settings.steps):
            printed = time.monotonic()
            pace = (session.step - first) * settings.batch / (printed - started)
            outcome = session.trainer.outcome
            print(
                f"step {session.step}/{settings.steps}  explained variance {1 - outcome.unexplained:.4f}  dead "
                f"{outcome.dead_share:.3f}  {pace:.0f} embeddings/s  {session.seconds_left:.0f} s left",
                flush=True,
            )

    try:
        session.advance(settings.steps, report)
    except KeyboardInterrupt:
        if team.size > 1:
            raise  # the others may be at another step; the last checkpoint is whole
        print(f"stopped at step {session.step}; the same command goes on", flush=True)
    except (NotFinite, StoreError):
        write(session, given, None)
        raise
    finally:
        session.close()
    session.save()
    write(session, given, measure_on(given.store / "held", session.sae()) if team.rank == 0 else None)
    team.gather("written")  # no process may leave while another still needs it


def write(session: Session, given: argparse.Namespace, quality: Quality | None) -> None:
    """Write the SAE as it is now; only the first process does."""
    if session.team.rank:
        return
    facts = session.facts(quality)
    native.save(given.target, session.sae(), facts=facts, dtype=WEIGHTS[given.weights])
    print(f"wrote {given.target} after {session.step} steps: {facts}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Raises:
        SystemExit: something is wrong; the message says what.
    """
    given, team = parse(arguments), assemble()
    try:
        train(given, team)
    except (StoreError, ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    finally:
        team.leave()
