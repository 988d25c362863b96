"""The shipped models: each a guarded system that was once losing its runs.

Values are module paths, not modules, so that listing them imports nothing.
"""

MODELS: dict[str, str] = {
    "causal": "stabjax.models.causal",
    "ctm": "stabjax.models.ctm",
    "gan": "stabjax.models.gan",
    "ppo": "stabjax.models.ppo",
    "rlan": "stabjax.models.rlan",
}
