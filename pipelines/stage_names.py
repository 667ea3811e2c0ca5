"""The names of the stages, in order; apart from the stages themselves, which take seconds to import."""

INGEST = "ingest"
FEATURES = "features"
TRAIN = "train"
EMBED = "embed"
NEIGHBORS = "neighbors"
CORESET = "coreset"
REPORT = "report"
EVALUATE = "evaluate"
"""Comes last where the configuration names a label column."""

STAGES = (INGEST, FEATURES, TRAIN, EMBED, NEIGHBORS, CORESET, REPORT)
"""Those of every run."""
