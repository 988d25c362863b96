"""The command line with the line model registered; run as a program by the tests."""

import os
import pathlib
import sys

import stabjax.models
from stabjax.cli import main

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).parent))
stabjax.models.MODELS["line"] = "line_model"

if __name__ == "__main__":
    sys.exit(main())
