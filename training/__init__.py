"""Training SAEs: on embeddings in memory, or on a store, alone or in many processes."""

from .quality import Quality, measure, progress_printer
from .settings import TrainingSettings
from .trainer import Trainer, train

__all__ = ["Quality", "Trainer", "TrainingSettings", "measure", "progress_printer", "train"]
