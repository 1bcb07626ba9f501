"""Deciding purely, driving, settling."""
