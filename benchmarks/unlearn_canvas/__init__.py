"""The UnlearnCanvas protocol over ComfyUI's HTTP API; see README.md beside this file."""

from .steps import main

__all__ = ["main"]
