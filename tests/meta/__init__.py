"""Tests of the project itself: its tables, its layers, its pages, its files."""
