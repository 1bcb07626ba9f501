"""`python -m drpilot` is the `drpilot` command."""

from __future__ import annotations

from drpilot.cli.app import main

if __name__ == "__main__":
    main()
