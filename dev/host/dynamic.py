"""ComfyUI's dynamic memory without a GPU.

Newer versions load weights when they are used (``--enable-dynamic-vram``, the default on an NVIDIA GPU): layers get
their weights late and keep the type that these come in, files are mapped instead of read, and models on a GPU have
another class of patcher. Without a GPU their command line ends with an error, though only the library that takes
memory on the device needs one. So that step is left out, and the rest runs as it is. The other patcher and what it
fetches ahead cannot be had: for models on the processor ComfyUI itself takes the usual one.
"""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def weights_at_once() -> Iterator[None]:
    """Let ComfyUI's layers have weights when they are made, for models that no file is loaded into."""
    try:
        import comfy.memory_management as memory
    except ImportError:  # older versions know no other way
        yield
        return
    before = getattr(memory, "aimdo_enabled", False)
    memory.aimdo_enabled = False
    try:
        yield
    finally:
        memory.aimdo_enabled = before


def allow_without_gpu() -> None:
    """Let ComfyUI start with ``--enable-dynamic-vram`` where there is no GPU. To be called before it is imported."""
    import comfy_aimdo.control as control
    import torch

    if not torch.cuda.is_available():
        control.init_devices = lambda devices: control.lib is not None


def switch_on() -> None:
    """Do what ComfyUI's ``main.py`` does for ``--enable-dynamic-vram``, in this process.

    Raises:
        RuntimeError: the library that ComfyUI uses for it cannot be loaded here.
    """
    import comfy_aimdo.control as control

    allow_without_gpu()
    if not control.init():
        raise RuntimeError("--enable-dynamic-vram: comfy-aimdo cannot be loaded here; its reason is above.")
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher

    if not control.init_devices(device.index for device in comfy.model_management.get_all_torch_devices()):
        raise RuntimeError("--enable-dynamic-vram: comfy-aimdo found no device that it can use.")
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True
