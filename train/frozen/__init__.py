"""What a network that stays as it is gives: features of films, and regressions fitted to them."""
