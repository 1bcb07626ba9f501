"""Simulated EC2-compatible clouds that unchanged boto3 talks to."""
