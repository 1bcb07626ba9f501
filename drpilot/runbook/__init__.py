"""Runbooks: the language, its expressions, and the compiler that makes a plan of them. Nothing here
touches a cloud.
"""
