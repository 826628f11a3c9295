"""TensorFlow, loaded without the notes it writes on standard error. Import this before keras."""
import os
from contextlib import contextmanager

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextmanager
def silenced():
    """Nothing written on standard error within the block is seen, not even by native code."""
    shown, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        os.close(nowhere)


with silenced():
    import keras  # noqa: F401
