"""A loss that is no number ends the training and names its cases, on a CPU at once; a GPU is not asked at each."""
import pytest
import torch

from shared_data.errors import InputError
from shared_torch.loss_watch import EVERY, LossWatch

GPU = torch.device("cuda")


class Bar:
    shown = ()

    def set_postfix(self, loss):
        self.shown += (loss,)


def test_losses_are_looked_at_seldom_and_at_the_end():
    bar = Bar()
    watch = LossWatch(bar, GPU)
    for number in range(2 * EVERY + 1):
        watch.saw(torch.tensor(float(number)), ["P1"])
    assert bar.shown == (f"{EVERY - 1:.4f}", f"{2 * EVERY - 1:.4f}")
    watch.look()
    watch.look()
    assert bar.shown[2:] == (f"{2 * EVERY:.4f}",)


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_the_first_loss_that_is_no_number_is_named(bad):
    watch = LossWatch(Bar(), GPU, "slices")
    watch.saw(torch.tensor(1.0), ["P1"])
    watch.saw(torch.tensor(float(bad)), ["P3", "P2", "P3"])
    watch.saw(torch.tensor(float("nan")), ["P4"])
    with pytest.raises(InputError, match=f"loss {bad} on slices of P2, P3. Try a smaller"):
        watch.look()


def test_on_a_cpu_every_loss_is_looked_at():
    bar = Bar()
    watch = LossWatch(bar, torch.device("cpu"))
    watch.saw(torch.tensor(1.0), ["P1"])
    assert bar.shown == ("1.0000",)
    with pytest.raises(InputError, match="loss nan on patches of P2"):
        watch.saw(torch.tensor(float("nan")), ["P2"])
