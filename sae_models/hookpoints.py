"""Names of the blocks that SAEs read, as diffusers and as ComfyUI spell them.

Stable Diffusion 1, 2 and XL have two residual blocks a level, and so have their fine-tunes and most pruned variants:
there the two names belong together whatever the model. Where a model is at hand, ``erasure.blocks`` asks it instead.
"""

import re

BLOCKS_A_LEVEL = 2
NATIVE = re.compile(r"(?<![a-z])(?:(input|output)_blocks\.(\d{1,3})\.1|middle_block\.1)(?!\d)")
DIFFUSERS = re.compile(r"(?<![a-z])(?:(down|up)_blocks?\.(\d)\.attentions\.(\d)|mid_block\.attentions\.0)(?!\d)")
# What the modules in and beside blocks are called; in the name of a file a point may also stand before anything else.
PARTS = (
    r"\d{1,3}|attentions|resnets|downsamplers|upsamplers|transformer_blocks|proj_in|proj_out|proj|norm[123]?|attn[12]|"
    "ff|net|to_[qkv]|to_out|conv[12]?|conv_shortcut|time_emb_proj|in_layers|out_layers|emb_layers|skip_connection|op"
)
LEVEL = r"(?<![a-z])(?:(?:down|up)_blocks?|mid_block|(?:input|output)_blocks|middle_block)"
MODULE = re.compile(rf"{LEVEL}(?:\.(?:\d{{1,3}}(?!\d)|[a-z_]\w*))*", re.IGNORECASE)
MODULE_IN_PATH = re.compile(rf"{LEVEL}(?:[./](?:{PARTS})(?![a-z\d]))*")


def find(text: str) -> str:
    """Return the block named anywhere in a text, such as a folder's path, in ComfyUI's spelling; "" if there is none.

    ``unet.up_blocks.1.attentions.1`` gives ``output_blocks.4.1``; a module inside of it gives nothing.
    """
    if inside(text, path=True):
        return ""
    native = NATIVE.search(text)
    if native:
        return native[0]
    found = DIFFUSERS.search(text)
    if not found:
        return ""
    if found[1] is None:
        return "middle_block.1"
    level, place = int(found[2]), int(found[3])
    if found[1] == "down":
        return f"input_blocks.{(BLOCKS_A_LEVEL + 1) * level + place + 1}.1"
    return f"output_blocks.{(BLOCKS_A_LEVEL + 1) * level + place}.1"


def inside(text: str, path: bool = False) -> str:
    """Return the first module that a text names of those that no SAE can read here; "" if there is none.

    Such are modules inside of a block, ``up_blocks.1.attentions.1.transformer_blocks.0``, and those beside,
    ``up_blocks.1.resnets.0``.

    Args:
        text: of a configuration.
        path: whether it is the path of a file instead, where ``middle_block.1.cats.safetensors`` is no such module.
    """
    for module in (MODULE_IN_PATH if path else MODULE).finditer(text):
        name = module[0]
        least = 1 if name.startswith("mid") else 2
        if name.count(".") + name.count("/") >= least and not (NATIVE.fullmatch(name) or DIFFUSERS.fullmatch(name)):
            return name
    return ""


def said(text: str) -> str:
    """Return the block that ``find`` finds, if the text has it in diffusers' spelling; else "".

    ``unet.up_blocks.1.attentions.1`` gives ``up_blocks.1.attentions.1``.
    """
    found = None if NATIVE.search(text) else DIFFUSERS.search(text)
    if not found:
        return ""
    return f"{found[1]}_blocks.{found[2]}.attentions.{found[3]}" if found[1] else found[0]


def diffusers_name(native: str) -> str:
    """Return how diffusers calls a block; for a name that is none, an empty text.

    ``output_blocks.4.1`` gives ``up_blocks.1.attentions.1``.
    """
    found = NATIVE.fullmatch(native)
    if not found:
        return ""
    if found[1] is None:
        return "mid_block.attentions.0"
    number = int(found[2])
    if found[1] == "output":
        return f"up_blocks.{number // 3}.attentions.{number % 3}"
    level, place = divmod(number - 1, BLOCKS_A_LEVEL + 1)
    return f"down_blocks.{level}.attentions.{place}" if number and place < BLOCKS_A_LEVEL else ""


def known() -> list[str]:
    """Return every block of Stable Diffusion 1, 2, XL and pruned UNets that can hold a transformer, in a model's order.

    ``input_blocks.3.1`` is one only where a level has one residual block, as in KOALA.
    """
    inputs = [f"input_blocks.{i}.1" for i in (1, 2, 3, 4, 5, 7, 8)]
    return [*inputs, "middle_block.1", *(f"output_blocks.{i}.1" for i in range(12))]
