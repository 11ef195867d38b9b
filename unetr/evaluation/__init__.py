"""How good a model is, with intervals, in a report of one HTML file; and the threshold to serve it with."""
