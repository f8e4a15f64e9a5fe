"""`python -m search` is `larnn-search`, for where the console script is not on the path."""

from search.cli import main

main()
