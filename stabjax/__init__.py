"""Keeps a JAX training run alive and says why it was dying."""

from stabjax._version import __version__ as __version__
