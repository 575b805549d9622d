"""Stage 2: fit each category's logistic regression anew on known labels."""
