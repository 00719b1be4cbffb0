"""Turn an SAE of any format that is read, and SAeUron's activations of concepts, into one file of the pack's own.

Run it in the pack's folder: ``python -m sae_models.formats.convert SOURCE TARGET``. It needs PyTorch and safetensors,
but no ComfyUI.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from .. import hookpoints
from ..sae import READS
from . import load_whole, native, open_sae, saeuron
from .files import is_safetensors

WEIGHTS = {"keep": None, "float16": torch.float16, "float32": torch.float32}


def convert(
    source: Path,
    target: Path,
    hookpoint: str = "",
    reads: str = "",
    activations: Path | None = None,
    bands: int = 10,
    features: int = 2,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a native file.

    Args:
        source: an SAE's file or folder.
        target: what to write.
        hookpoint: the block that it reads, in either spelling; "" if the source says it.
        reads: see SAEConfig; "" for what the format has.
        activations: a ``cls_latents_dict_*.pkl`` of SAeUron, made with this SAE.
        bands, features: see ``saeuron.read_dictionary``.
        dtype: of the weights; None keeps that of the source.

    Raises:
        SAEFileError: a source cannot be read, or they do not belong together.
    """
    hookpoint = hookpoints.find(hookpoint) or hookpoint
    source = source.resolve()
    file = open_sae(source, hookpoint, Path(source.anchor))
    file.config = replace(file.config, hookpoint=hookpoint or file.config.hookpoint, reads=reads or file.config.reads)
    dictionary = file.dictionary()
    if activations is not None:
        dictionary = saeuron.read_dictionary(activations, bands, features)
        assert dictionary.feature_means is not None
        found = dictionary.feature_means.shape[1]
        if found != file.config.num_latents:
            raise native.SAEFileError(
                f"{activations.name}: speaks of {found} features, {source.name} has {file.config.num_latents}. It was "
                "made with another SAE"
            )
    known = dictionary if dictionary.concepts or dictionary.feature_means is not None else None
    native.save(target, load_whole(file), known, {**file.facts, "converted_from": source.name}, dtype)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Raises:
        SystemExit: something is wrong; the message says what.
    """
    parser = argparse.ArgumentParser(prog="python -m sae_models.formats.convert", description=__doc__)
    parser.add_argument("source", type=Path, help="an SAE's file, or its folder")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    parser.add_argument("--hookpoint", default="", help="the block it reads, such as up_blocks.1.attentions.1")
    parser.add_argument("--reads", default="", choices=["", *READS])
    parser.add_argument("--activations", type=Path, help="SAeUron's cls_latents_dict_*.pkl: gives the file concepts")
    parser.add_argument("--bands", type=int, default=10, help="timestep bands of the concepts (10)")
    parser.add_argument("--features", type=int, default=2, help="features of a concept in each band (2)")
    parser.add_argument("--weights", default="keep", choices=WEIGHTS, help="how numbers are stored (as in the source)")
    parser.add_argument("--overwrite", action="store_true", help="replace the target if it is there")
    given = parser.parse_args(arguments)
    if not is_safetensors(given.target):
        raise SystemExit(f"{given.target}: the target must end in .safetensors")
    if given.target.exists() and not given.overwrite:
        raise SystemExit(f"{given.target}: is there already; add --overwrite to replace it")
    try:
        convert(
            given.source,
            given.target,
            given.hookpoint,
            given.reads,
            given.activations,
            given.bands,
            given.features,
            WEIGHTS[given.weights],
        )
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    written = native.SAEFile(given.target)
    print(f"{given.target}: {written.config.hookpoint}, {len(written.concept_names())} concepts")


if __name__ == "__main__":
    main()
