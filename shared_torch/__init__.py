"""What the PyTorch projects share: devices, precision, Fabric, checkpoints, inference engines."""
