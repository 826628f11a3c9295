"""The losses of an epoch's updates; those on a GPU are looked at so seldom that it need not wait after each."""
import math

from shared_data.errors import InputError

EVERY = 20  # updates


class LossWatch:
    """Shows the last loss behind a progress bar, and ends a training whose loss is no number any more.

    what: of a batch, in the message.
    """

    def __init__(self, bar, device, what="patches"):
        self.bar, self.what, self.unseen = bar, what, []
        self.every = 1 if device.type == "cpu" else EVERY

    def saw(self, loss, cases):
        """A loss (scalar tensor) and the cases of its batch."""
        self.unseen.append((loss.detach(), cases))
        if len(self.unseen) == self.every:
            self.look()

    def look(self):
        """Raise InputError for the first loss since the last look that is not finite."""
        unseen, self.unseen = self.unseen, []
        if unseen and not math.isfinite(sum(loss for loss, _ in unseen)):
            for value, cases in ((float(loss), cases) for loss, cases in unseen):
                if not math.isfinite(value):
                    raise InputError(f"loss {value} on {self.what} of {', '.join(sorted(set(cases)))}. Try a smaller "
                                     "learning rate, or --precision 32-true.")
        if unseen:
            self.bar.set_postfix(loss=f"{float(unseen[-1][0]):.4f}")
