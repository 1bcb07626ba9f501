"""Deterministic simulation: the real engine, services, runbooks, journal and adapter on the lab, in one thread."""
