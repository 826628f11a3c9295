"""3D-SepNet: organs at risk in head-and-neck CT, with uncertainty (Lei et al. 2021)."""
