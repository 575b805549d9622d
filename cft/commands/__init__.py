"""What the command `cft` can do: a module each, with ``main(arguments)`` -> exit status."""
