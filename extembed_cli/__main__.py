"""`python -m extembed_cli` is the `extembed` command."""

from extembed_cli.cli.main import main

main()
