"""The greedy engine: one lazy-block loop, objectives that run in it, and who may still be picked."""
