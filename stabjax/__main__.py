"""``python -m stabjax`` is the ``stabjax`` command."""

import sys

from stabjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
