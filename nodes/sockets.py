"""The socket types of this pack, and the menu category of its nodes."""

from comfy_api.latest import io

CATEGORY = "SAE concept erasure"

SAE = io.Custom("SAE")
CONCEPT = io.Custom("CONCEPT")
DETECTION = io.Custom("DETECTION")
ERASURE_RECORD = io.Custom("ERASURE_RECORD")
