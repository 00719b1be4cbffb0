"""Print the ComfyUI option with which this machine samples the demo model faster: ``python dev/host/precision.py``.

bfloat16 halves the time on a processor that has it, and takes several times as long on one that has not. Which it is
shows in the layers that a UNet consists of. Nothing is printed where ComfyUI's own choice is the faster one, or where
there is a GPU, for which ComfyUI chooses.
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch.nn import functional as F

OPTION = "--bf16-unet"
# Less is noise, or is lost where values are converted.
GAIN = 1.1
REPEATS = 15


def main() -> None:
    """Run the command line."""
    print("" if torch.cuda.is_available() else option(seconds(torch.float32), seconds(torch.bfloat16)))


def option(single: float, half: float) -> str:
    """Return the option to use, of the seconds that float32 and bfloat16 take."""
    return OPTION if half * GAIN < single else ""


@torch.inference_mode()
def seconds(dtype: torch.dtype) -> float:
    """Return how many seconds a convolution and a linear layer of usual sizes take together, the median of some."""
    image, kernel = torch.randn(2, 128, 32, 32, dtype=dtype), torch.randn(128, 128, 3, 3, dtype=dtype)
    patches, weight = torch.randn(2, 1024, 256, dtype=dtype), torch.randn(1024, 256, dtype=dtype)

    def layers() -> None:
        F.conv2d(image, kernel, padding=1)
        F.linear(patches, weight)

    return median(timed(layers) for _ in range(REPEATS))


def timed(work: Callable[[], None]) -> float:
    """Return how many seconds some work takes."""
    start = perf_counter()
    work()
    return perf_counter() - start


if __name__ == "__main__":
    main()
