"""`python -m jobs` is `mmcsal`."""

from jobs.cli import main

main()
