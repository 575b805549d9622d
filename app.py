"""The page of `cft`. A Hugging Face Space runs this file as it is."""

import sys

from cft.page.server import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
