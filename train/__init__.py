"""Make a model: images and partial labels -> model folder. Imports `cft`, never the page."""

import gc

from cft.threads import wait_briefly

# What is imported stays. To look through it for garbage at every 700 new objects, and through all
# of it four times, takes a tenth of the time in which a command starts.
gc.set_threshold(50_000)

wait_briefly()  # here, as every command of this package imports torch in its first lines
