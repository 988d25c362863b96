"""The configuration of the line that most tests of a run start from."""

LINE = """
model: {name: line}
train: {steps: 40, window: 10, checkpoint_every: 20, seed: 1}
optimizer: {kind: adamw, learning_rate: 0.05}
guards: [{kind: clip_by_global_norm, max_norm: 5}, {kind: skip_nonfinite}]
"""
