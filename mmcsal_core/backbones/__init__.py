"""Frozen feature extractors behind one small protocol."""
