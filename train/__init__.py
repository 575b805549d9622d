"""Make a model: images and partial labels -> model folder. Imports `cft`, never the page."""
