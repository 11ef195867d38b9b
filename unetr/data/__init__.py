"""Readers for labelled studies from other sources, in several layouts, and a data sheet about them."""
