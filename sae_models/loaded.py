"""An SAE that is ready for use: what travels through the SAE socket."""

from dataclasses import dataclass
from typing import Any

from .concepts import Concept, ConceptDictionary
from .native import SAEFile
from .readers import PublishedSAE
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

    def concept(self, name: str) -> Concept:
        """Return a concept of the dictionary.

        Raises:
            KeyError: the dictionary lacks it; the message lists what it has.
        """
        if name in self.dictionary.concepts:
            return self.dictionary.concepts[name]
        known = ", ".join(self.dictionary.names()) or "none; give latent indices instead"
        raise KeyError(f"the SAE {self.name} does not know the concept '{name}'. It knows: {known}")
