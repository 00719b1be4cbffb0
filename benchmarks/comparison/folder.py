"""Where the comparison keeps what it makes."""

from ..framework import storage

WORK = storage.folder("comparison")
