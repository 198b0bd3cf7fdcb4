"""Performance of a model: the likelihood of options, or written chains of thought."""
