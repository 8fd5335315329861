"""`python -m qphi`: the command."""

import sys

from qphi.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
