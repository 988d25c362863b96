"""The engine room: measure once, judge on scalars, apply once."""
