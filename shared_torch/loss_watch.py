"""Watches the losses of an epoch; on a GPU only every so often, so that the GPU need not wait for each."""
import math
from collections.abc import Iterable

import torch
from tqdm import tqdm

from shared_data.errors import InputError

EVERY = 20  # updates


class LossWatch:
    """Shows the latest loss in a progress bar, and ends a training whose loss is no longer finite.

    what: what a batch consists of, for the message.
    """

    def __init__(self, bar: tqdm, device: torch.device, what: str = "patches") -> None:
        self.bar, self.what = bar, what
        self.unseen: list[tuple[torch.Tensor, Iterable[str]]] = []
        self.every = 1 if device.type == "cpu" else EVERY

    def saw(self, loss: torch.Tensor, cases: Iterable[str]) -> None:
        """Note a loss (scalar tensor) and the cases of its batch."""
        self.unseen.append((loss.detach(), cases))
        if len(self.unseen) == self.every:
            self.look()

    def look(self) -> None:
        """Raise InputError for the first loss since the last look that is not finite."""
        unseen, self.unseen = self.unseen, []
        if unseen and not math.isfinite(sum(loss for loss, _ in unseen)):
            for value, cases in ((float(loss), cases) for loss, cases in unseen):
                if not math.isfinite(value):
                    raise InputError(f"loss {value} on {self.what} of {', '.join(sorted(set(cases)))}. Try a smaller "
                                     "learning rate, or --precision 32-true.")
        if unseen:
            self.bar.set_postfix(loss=f"{float(unseen[-1][0]):.4f}")
