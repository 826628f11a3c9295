"""The training time allowed, the same for every network; time used by killed runs counts."""
import time

from shared_data.files import read_json, write_json


class Budget:
    """`minutes` of wall-clock time; processor=True: of this process' processor time, on a machine that also does
    other work. Kept in `path` whenever `save` is called."""

    def __init__(self, path, minutes, processor):
        self.path, self.seconds = path, 60 * minutes
        self.clock = time.process_time if processor else time.perf_counter
        self.before = read_json(path)["seconds"] if path.exists() else 0.0
        self.start = self.clock()

    @property
    def used(self):
        """Seconds."""
        return self.before + self.clock() - self.start

    @property
    def share(self):
        """How much of it is used: 1 and more, all."""
        return self.used / self.seconds

    def save(self, **facts):
        write_json(self.path, {"seconds": self.used, **facts})
