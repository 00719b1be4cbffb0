"""From a model to an SAE: sample, collect, train, save."""
