"""The errors that mmcsal raises on purpose. Each message states the rule, the offending value and what to do."""


class MmcsalError(Exception):
    """Base of every error that mmcsal raises on purpose."""


class ConfigError(MmcsalError):
    """A configuration or a command line that breaks a rule. Nothing was started."""


class DataError(MmcsalError):
    """An input that is missing or cannot be read."""


class GateError(DataError):
    """A limit that stops a run before it publishes: too many rejects, or too few pairs."""


class StoreError(MmcsalError, OSError):
    """A store in the network that cannot be asked for now. Nothing is known of what lies there; it may help to wait."""


class ArtifactError(MmcsalError):
    """An artifact of a run that is missing, incomplete or not what its manifest says."""


class LockError(ArtifactError):
    """Another run holds the lock of this output."""
