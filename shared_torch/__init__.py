"""What the PyTorch projects share: devices, precision, Fabric, checkpoints, engines of inference."""
