"""The page of `cft`. A Hugging Face Space runs this file as it is."""

import sys

from cft.threads import wait_briefly

if __name__ == "__main__":
    wait_briefly()
    from cft.page.start import main  # which imports torch

    sys.exit(main(sys.argv[1:]))
