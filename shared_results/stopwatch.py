"""How long each step from CT to mask takes."""
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Batch = TypeVar("Batch")
PARTS = ("read", "prepare", "network", "finish", "write")


class Stopwatch:
    """`ends(part)` counts the seconds since the part before ended, or since `goes_on`.

    desc, disable: of the progress bar, as for tqdm.
    """

    def __init__(self, desc: str | None = None, disable: bool | None = None) -> None:
        self.parts, self.bar = dict.fromkeys(PARTS, 0.0), {"desc": desc, "disable": disable}
        self.goes_on()

    def goes_on(self) -> None:
        self.since = time.perf_counter()

    def ends(self, part: str) -> None:
        self.parts[part] += time.perf_counter() - self.since
        self.goes_on()

    def network(self, batches: Iterable[Batch], unit: str = "batch") -> Iterator[Batch]:
        """Yield the batches under a progress bar; this ends the part "prepare", and "network" after the last batch."""
        self.ends("prepare")
        yield from tqdm(batches, unit=unit, **self.bar)
        self.ends("network")

    @property
    def seconds(self) -> dict[str, float]:
        """{part: seconds so far}, "total" last."""
        seconds = {**self.parts, "total": sum(self.parts.values())}
        return {part: round(value, 3) for part, value in seconds.items()}
