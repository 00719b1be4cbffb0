"""What the pack costs on a GPU, in one command: see README.md."""

from .run import main

__all__ = ["main"]
