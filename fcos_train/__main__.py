"""`python -m fcos_train` is `fcos-train`."""

import sys

from fcos_train.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
