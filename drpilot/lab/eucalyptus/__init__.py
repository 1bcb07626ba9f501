"""The Eucalyptus dialects of a simulated cloud: its own front door, tables of fields, and what EC2 has not.

Sources: the message classes, query bindings and services of Eucalyptus 3.4.3, 4.4.2 and 5.1.0. Where the twin is
stricter than the original it says so: the original lets unknown fields inside a list pass in silence.
"""
