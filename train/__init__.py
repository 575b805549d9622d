"""Make a model: images and partial labels -> model folder. Imports `cft`, never the page."""

from cft.threads import wait_briefly

wait_briefly()  # here, as every command of this package imports torch in its first lines
