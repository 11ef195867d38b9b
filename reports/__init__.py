"""Rendering of results for people: pictures and tables."""
