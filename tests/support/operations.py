"""What torch computes, noted."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """All operations inside the `with`: name, shapes of the tensors they take, shapes of those they make."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[str, list[torch.Size], list[torch.Size]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else [result]
        shapes = [[each.shape for each in some if isinstance(each, torch.Tensor)] for some in (args, made)]
        self.all.append((str(func), *shapes))
        return result

    def made(self) -> list[torch.Size]:
        return [shape for _, _, shapes in self.all for shape in shapes]

    def products(self, columns: int) -> list[torch.Size]:
        """Of matrix products, those with so many columns."""
        return [made[0] for name, _, made in self.all if "mm" in name and made[0][-1] == columns]
