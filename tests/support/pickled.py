"""Objects whose pickles hold a call, as harmful files do."""

from collections.abc import Callable
from typing import Any


class Reduce:
    """Pickled as a call of a function: unpickling it would run the function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call
