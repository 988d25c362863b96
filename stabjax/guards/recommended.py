"""What to put into a run that nobody knows yet."""

from stabjax.guards.clip_update_spikes import clip_update_spikes
from stabjax.guards.reset_moments import reset_moments
from stabjax.guards.skip_nonfinite import skip_nonfinite
from stabjax.guards.skip_spikes import skip_spikes
from stabjax.types import Guard


def recommended() -> tuple[Guard, ...]:
    """Return the guards that help an unknown run and do not hurt a healthy one.

    `skip_nonfinite` refuses what is not finite and halts when that does not end;
    `skip_spikes` refuses a gradient far beyond all of late; `reset_moments` renews an
    optimizer state that was damaged; `clip_update_spikes` bounds an update far beyond
    all of late, whatever made it so large. None scales the gradient, needs the loss, or
    a scale to be chosen. Add the clip that you would use: after a burst of bad data it
    helps more.

    Returns:
        The guards, for ``guards=`` of a train step or ``*guards`` of `stabjax.guard`,
        which takes them by default. Others can be added.

    Source:
        Chosen by ``python benchmarks/do_no_harm.py``.

    Example:
        >>> [guard.name for guard in recommended()]
        ['skip_nonfinite', 'skip_spikes', 'reset_moments', 'clip_update_spikes']
    """
    return (
        skip_nonfinite(),
        skip_spikes(signals=("gradient_norm",)),
        reset_moments(when_damaged=True),
        clip_update_spikes(),
    )
