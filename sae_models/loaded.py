"""An SAE that is ready for use: what travels through the SAE socket."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from .concepts import Concept, ConceptDictionary
from .formats import PublishedSAE
from .formats.native import SAEFile
from .identity import SAEIdentity, digest
from .sae import SAEConfig, SparseAutoencoder


@dataclass(frozen=True, eq=False)
class LoadedSAE:
    """An SAE with its dictionary.

    Attributes:
        name: the file as the artist knows it.
        module: encoder, and the decoder once ``load_decoder`` was called.
        dictionary: its concepts, possibly none.
        file: where the decoder is read from.
        patcher: whatever the host needs to manage the module's memory; opaque here.
    """

    name: str
    module: SparseAutoencoder
    dictionary: ConceptDictionary
    file: SAEFile | PublishedSAE
    patcher: Any = None

    @property
    def config(self) -> SAEConfig:
        """The SAE's configuration."""
        return self.module.config

    def load_decoder(self) -> SparseAutoencoder:
        """Return the module with its decoder, reading it from the file the first time.

        Raises:
            SAEFileError: the file has none.
        """
        if self.module.decoder_weight is None:
            self.file.load_decoder(self.module)
        return self.module

    @cached_property
    def identity(self) -> SAEIdentity:
        """Which SAE this is; worked out when first asked for."""
        return SAEIdentity(self.name, digest(self.module))

    def require_own(self, concept: Concept) -> Concept:
        """Return a concept if it belongs to this SAE.

        One that does not say whose it is passes if this SAE has all its features.

        Raises:
            ValueError: it was made for another SAE; the message names both.
        """
        if concept.sae is not None and concept.sae.digest != self.identity.digest:
            raise ValueError(
                f"the concept '{concept.name}' was made for another SAE: for {concept.sae}, not for {self.identity}. "
                "Its features mean something else there. Load the SAE it was made with"
            )
        if concept.max_feature() >= self.config.num_latents:
            raise ValueError(
                f"the concept '{concept.name}' uses feature {concept.max_feature()}, but the SAE {self.name} has only "
                f"{self.config.num_latents}. It was made for another SAE; load that one"
            )
        return concept

    def from_features(self, features: Iterable[int]) -> Concept:
        """Make a concept out of feature indices alone, see ConceptDictionary."""
        return replace(self.dictionary.from_features(features), sae=self.identity)

    def concept(self, name: str) -> Concept:
        """Return a concept of the dictionary.

        Raises:
            KeyError: the dictionary lacks it; the message lists what it has.
        """
        if name in self.dictionary.concepts:
            return replace(self.dictionary.concepts[name], sae=self.identity)
        known = ", ".join(self.dictionary.names()) or "none; give feature indices instead"
        raise KeyError(f"the SAE {self.name} does not know the concept '{name}'. It knows: {known}")
