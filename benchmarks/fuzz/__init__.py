"""Damaged and hostile files of every format that the pack reads: ``python dev/host benchmarks.fuzz --files 10000``.

A file of each format is changed in one way of ``mutations``, and read by a process of its own that may take little
memory and time. Each must be refused by name, or read as what it is. See ``run`` for what counts as a fault.
"""

from .run import main

__all__ = ["main"]
