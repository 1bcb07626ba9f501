"""The version, read by the build and by `drpilot --version`."""

__version__ = "0.1.0"
