"""From labelled studies to a model that the service serves: configuration, preparation, training, export."""
