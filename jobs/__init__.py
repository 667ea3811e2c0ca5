"""The entry points: command line, YAML, `ray.init`, logging and exit codes."""
