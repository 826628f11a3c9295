"""S-Net: lymph nodes on neck CT (Al Hasan et al., J Imaging Inform Med 2024)."""
