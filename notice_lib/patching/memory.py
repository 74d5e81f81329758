"""Work that does not fit in memory is done in halves, and finished parts are kept."""

import gc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass
class Budget:
    """How much is computed at once.

    Attributes:
        tokens: of all patched runs of a chunk; it shrinks when a chunk does not fit.
    """

    tokens: int

    def run(
        self, work: Callable[[Sequence[int]], torch.Tensor], chunk: Sequence[int]
    ) -> torch.Tensor:
        """`work(chunk)`; if memory is too small for it, the results of its halves side by side.

        Args:
            work: gives a tensor (P, len(chunk), ...).

        Raises:
            torch.OutOfMemoryError: not even one of the chunk fits.
        """
        try:
            return work(chunk)
        except torch.OutOfMemoryError:
            if len(chunk) < 2:
                raise
        self.halve()
        middle = len(chunk) // 2
        return torch.cat([self.run(work, half) for half in (chunk[:middle], chunk[middle:])], 1)

    def halve(self) -> None:
        """Go on with half as many tokens after memory ran out.

        To be called after the except block has ended, since the exception's traceback keeps the
        failed run's tensors alive.
        """
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.tokens = max(1, self.tokens // 2)
        warnings.warn(
            f"Out of memory: going on with {self.tokens} tokens at a time. "
            "Pass max_tokens to start there.",
            stacklevel=4,
        )
