"""The page of `cft`. A Hugging Face Space runs this file as it is."""

import sys

from cft.threads import one_thread_in_numpy, wait_briefly

if __name__ == "__main__":
    wait_briefly()
    one_thread_in_numpy()
    from cft.page.start import main  # which imports numpy

    sys.exit(main(sys.argv[1:]))
