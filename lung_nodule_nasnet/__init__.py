"""NASNet-GCN: pulmonary nodules in chest CT."""
