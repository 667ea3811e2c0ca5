"""The version that every manifest and fingerprint carries."""

__version__ = "0.2.0"
