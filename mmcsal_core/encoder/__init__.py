"""The regularised two-tower encoder: towers, losses, prototypes, checkpoint."""
