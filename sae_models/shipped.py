"""The SAEs that ship with the pack: which blocks of the demo model's UNet they read."""

HOOKPOINTS = ("output_blocks.2.1", "middle_block.1", "input_blocks.3.1")  # the one to use first comes first
DEFAULT = HOOKPOINTS[0]
DEFAULT_WIDTH = 128  # channels of that block


def file_name(hookpoint: str = DEFAULT) -> str:
    """Return the name of the file in ``weights/`` that holds the SAE of a block."""
    return f"canvas_{hookpoint}.safetensors"
