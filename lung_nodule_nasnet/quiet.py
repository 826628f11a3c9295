"""TensorFlow, loaded without the notes it writes on standard error. Import this before keras."""
import os

from shared_data.errors import silenced

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

with silenced():
    import keras  # noqa: F401
