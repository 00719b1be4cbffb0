"""The arguments of ComfyUI's ``CFGGuider.outer_sample`` behind noise and latent_image, by place or by name."""

from collections.abc import Mapping, Sequence
from typing import Any

PLACES = {"sigmas": 1, "denoise_mask": 2, "callback": 3, "seed": 5}


def argument(args: Sequence[Any], named: Mapping[str, Any], name: str) -> Any:
    """Return one of `PLACES`; None if it was not given."""
    place = PLACES[name]
    return args[place] if len(args) > place else named.get(name)


def with_argument(
    args: Sequence[Any], named: Mapping[str, Any], name: str, value: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with another value of one of `PLACES`."""
    place = PLACES[name]
    if len(args) > place:
        return (*args[:place], value, *args[place + 1 :]), dict(named)
    return tuple(args), {**named, name: value}
