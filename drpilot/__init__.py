"""drpilot: disaster recovery between two EC2-compatible clouds by the pilot-light strategy."""
