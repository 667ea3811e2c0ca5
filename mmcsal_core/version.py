"""The version that every manifest and fingerprint carries."""

__version__ = "0.1.0"
