"""A yardstick for what the processor can do: the operations of a call as one product of matrices."""
import torch
from torch.utils.flop_counter import FlopCounterMode

SIDE = 2048


def operations(call):
    """Multiplications and additions in the convolutions and matrix products of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def multiply(count, dtype):
    """Multiply square matrices until `count` operations are done, the last time fewer rows."""
    left, right = torch.rand(2, SIDE, SIDE).to(dtype)
    rows = count // (2 * SIDE ** 2)
    for start in range(0, rows, SIDE):
        left[:rows - start] @ right
