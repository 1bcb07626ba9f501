"""Killing drpilot while the clouds live on."""
