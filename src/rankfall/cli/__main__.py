"""`python -m rankfall.cli`, for those who have no `rankfall` on their path."""

from rankfall.cli import main

main()
