"""Attach feature steering to a model."""

from comfy.model_patcher import ModelPatcher

from ..erasure.history import ErasureRecord
from ..unet.blocks import check_fit
from ..unet.hooks import attach_observer
from .steerer import SteeredConcept, Steerer
from .steering import Steering


def steer(model: ModelPatcher, target: SteeredConcept, steering: Steering) -> tuple[ModelPatcher, ErasureRecord]:
    """Return a clone of the model whose features are steered while it samples, and the record of what is changed.

    Raises:
        ValueError: the SAE does not fit the model, or its file lacks what steering needs.
    """
    check_fit(model, target.sae, "Feature Steering")
    try:
        target.sae.load_decoder()
        target.statistics(0.0)
    except ValueError as error:
        raise ValueError(
            f"Feature Steering: the SAE {target.sae.name} (input 'sae') cannot steer: {error}. To erase an object "
            "use the Patch Replacer, which needs neither a decoder nor mean activations. For a style leave its word "
            "out of the prompt."
        ) from error
    record = ErasureRecord()
    return attach_observer(model, Steerer(target, steering, record), [target.sae.patcher]), record
