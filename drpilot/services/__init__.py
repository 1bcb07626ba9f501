"""What a person asks for: protect, begin, steer, status, check, watch."""
