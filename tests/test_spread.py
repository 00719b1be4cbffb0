"""The benchmark of SAEs of one recipe: what is sampled once is seen by each SAE as if it had been there."""

import pytest
import torch
from support.demo_model import SITE


@pytest.fixture(scope="module")
def spread(pack):
    from concept_erasure.benchmarks import spread

    return spread


def test_a_tape_gives_each_sae_what_it_would_have_seen(spread, sae):
    from concept_erasure.finding.labelling import Labels
    from concept_erasure.finding.search import Gathered
    from concept_erasure.sae_models.sparse_codes import encode_sparsely
    from concept_erasure.unet.capture import FeatureCapture
    from concept_erasure.unet.sampling import _split

    tape, maps = spread.Tape(sae), [torch.randn(2, sae.config.d_in, 4, 4) * 3 for _ in range(3)]
    seen = {}
    for name, module in (("tape", tape), ("sae", sae.module)):
        capture = FeatureCapture(spread.replace(sae, module=module))
        for number, read in enumerate(maps):
            capture.keep(SITE, 100.0 * number, read.half().float())
        seen[name] = _split(capture.take_fired(), 2)
    played = tape.played(Gathered(seen["tape"], Labels(torch.ones(2, 1), torch.zeros(2).bool()), []), sae)
    for ours, direct in zip(played.fired, seen["sae"], strict=True):
        for one, other in zip(ours, direct, strict=True):
            assert (one.timestep, one.grid) == (other.timestep, other.grid)
            assert torch.equal(one.values, other.values) and torch.equal(one.indices, other.indices)
    assert encode_sparsely(tape, torch.zeros(5, sae.config.d_in))[1].flatten().tolist() == list(range(96, 101))


def test_correlation_says_what_rises_together(spread):
    rows = [{spread.EXPLAINED: x, "AUC": x * x} for x in (0.1, 0.2, 0.4, 0.8)]
    assert spread.correlation(rows, "AUC").startswith("AUC: 1.00")
    assert spread.correlation(list(reversed([row | {"AUC": -row["AUC"]} for row in rows])), "AUC").startswith(
        "AUC: -1.00"
    )
