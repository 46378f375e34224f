"""`python -m agent.cli`: the `meshnode` command where the package is not installed."""

from agent.cli.main import main

main()
