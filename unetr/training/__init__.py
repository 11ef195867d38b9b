"""Training, from labelled studies to a served model: configuration, preparation, training, export."""
