"""Labelled studies of other people, whatever their layout on disk, and a data sheet that describes them."""
