"""What a selection must keep to: quotas, costs, distances, near-duplicates, and which pairs it is about."""
