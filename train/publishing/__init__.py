"""A trained model -> model folder, model card, Hub repository, Space."""
