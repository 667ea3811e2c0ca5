"""Objectives, the greedy engine and the baselines."""
