"""Stage 1: train a network on partially labelled films."""
