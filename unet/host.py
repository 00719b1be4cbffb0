"""What differs between versions of ComfyUI while it samples."""

from contextlib import AbstractContextManager, nullcontext


def lasting_memory() -> AbstractContextManager[None]:
    """Return a context in which memory may be taken that is kept beyond the block at hand.

    From 0.34 on ComfyUI records where each block of the UNet takes memory, and expects it back when the block ends.
    Masks and the record are kept longer. Older versions have nothing of the kind.
    """
    try:
        import comfy.model_prefetch as prefetch
    except ImportError:
        return nullcontext()
    pause = getattr(prefetch, "pause_malloc_graph", None)
    return nullcontext() if pause is None else pause()
