"""Which device Keras on TensorFlow runs on."""
from lung_nodule_nasnet import quiet

with quiet.silenced():
    import tensorflow as tf

from shared_data.errors import InputError

tf.get_logger().setLevel("ERROR")


def choose_strategy(device: str, devices: int) -> tf.distribute.Strategy | None:
    """tf.distribute's strategy for `devices` GPUs, or as many parts of the CPU; None for a single device.

    Raises InputError when they are not there.
    """
    with quiet.silenced():
        gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise InputError("--device gpu: none on this machine (or TensorFlow was installed without CUDA). "
                         "Here: cpu.")
    on_gpu = bool(gpus) and device != "cpu"
    if on_gpu and devices > len(gpus):
        raise InputError(f"--devices {devices}: {len(gpus)} GPUs here.")
    if not on_gpu:
        tf.config.set_visible_devices([], "GPU")
        tf.config.experimental.enable_op_determinism()
    if devices == 1:
        return None
    if on_gpu:
        return tf.distribute.MirroredStrategy([f"GPU:{number}" for number in range(devices)])
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    except RuntimeError as error:
        raise InputError(f"--devices {devices}: TensorFlow is at work already in this process.") from error
    return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(devices)])
