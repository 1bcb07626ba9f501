"""Adapters that talk to EC2-compatible clouds: the only room that imports botocore for production calls."""
