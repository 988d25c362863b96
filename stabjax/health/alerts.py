"""The meaning of each alert bit, how grave it is, and what to do about it."""

from typing import Literal, NamedTuple

from stabjax.types import Alert

Severity = Literal["information", "warning", "error"]


class Explanation(NamedTuple):
    """What an alert says.

    Attributes:
        cause: What was seen, one sentence.
        suggestion: What to try, at most three sentences.
    """

    cause: str
    suggestion: str


_EXPLANATIONS = {
    Alert.NONFINITE_LOSS: Explanation(
        "The loss was NaN or infinite.",
        "Look at the first non-finite component and at the batch itself. Division by "
        "0, log of 0 and a softmax with every key masked have a form in "
        "stabjax.numerics: safe_divide, safe_log, masked_softmax. In half precision "
        "take sums, exponentials and the loss in float32.",
    ),
    Alert.NONFINITE_COMPONENT: Explanation(
        "A named loss component was NaN or infinite.",
        "Use the safe forms of stabjax.numerics in that component, or leave it out of "
        "such a step: stabjax.loss_transforms.drop_nonfinite_component.",
    ),
    Alert.NONFINITE_GRADIENT: Explanation(
        "The gradient had a NaN or infinite element.",
        "With a finite loss, look at the first bad leaf for one of these, and take its "
        "form of stabjax.numerics: square root or norm at 0 (safe_sqrt, safe_norm, "
        "safe_normalize, safe_std); division by 0 (safe_divide); log of 0 (safe_log, "
        "or cross_entropy and focal_loss of stabjax.losses); power with an exponent "
        "below one at 0 (safe_power); arccos or arcsin at +-1 (safe_arccos, "
        "safe_arcsin); decomposition with equal eigenvalues or singular values "
        "(safe_eigh, safe_svd); softmax with every key masked (masked_softmax). A "
        "where-branch is no cure, for the branch not taken has its gradient too: "
        "select its argument. In float16 it may be an overflow: "
        "stabjax.guards.dynamic_loss_scale.",
    ),
    Alert.NONFINITE_STATE: Explanation(
        "Finite gradients gave non-finite parameters or optimizer state.",
        "In half precision an epsilon may be zero, as Adam's 1e-8 is in float16, or "
        "the update may overflow: use eps >= 1e-4, or float32 parameters and moments. "
        "Otherwise lower the learning rate or clip. If the state was damaged from "
        "outside (train.audit counts it), restore a checkpoint.",
    ),
    Alert.NORM_OVERFLOW: Explanation(
        "The gradient was finite, but its sum of squares overflowed float32.",
        "Nothing was lost: the norm was taken again in a smaller unit, but the loss is "
        "far too steep here. If it is scaled for half precision, leave its scale to "
        "stabjax.guards.dynamic_loss_scale.",
    ),
    Alert.GRADIENT_RANGE: Explanation(
        "The gradient after clipping was above 4.6e18, whose square overflows.",
        "Clip by norm: a second moment that turns infinite freezes its parameter. If "
        "the loss is scaled for half precision, leave its scale to "
        "stabjax.guards.dynamic_loss_scale.",
    ),
    Alert.CLIPPED: Explanation(
        "The gradient norm was above its bound and was scaled down.",
        "If this is so in most steps, the bound acts as the learning rate.",
    ),
    Alert.LOSS_SPIKE: Explanation(
        "The loss stood far above its running level.",
        "Look at the batch; if the level has really changed, it is accepted soon.",
    ),
    Alert.GRADIENT_SPIKE: Explanation(
        "The gradient norm stood far above its running level or its absolute limit.",
        "Look at the batch; a lower clipping bound limits the damage.",
    ),
    Alert.UPDATE_SPIKE: Explanation(
        "The last update was far larger than usual.",
        "Often the first sign of a loss spike: lower the learning rate or beta2.",
    ),
    Alert.PLATEAU: Explanation(
        "The loss stopped improving; the updates were scaled down.",
        "Nothing to do, unless it comes early in the run.",
    ),
    Alert.BACK_OFF: Explanation(
        "Steps were refused; the updates are smaller for a while.",
        "Nothing to do, unless it comes back.",
    ),
    Alert.ROLLBACK: Explanation(
        "Too many steps in a row were refused; back to the last good snapshot.",
        "If it comes back, the data or the learning rate is the cause.",
    ),
    Alert.HALT: Explanation(
        "Training was halted: no step is applied any more.",
        "Restore a checkpoint and remove the cause named in the error.",
    ),
    Alert.ACCEPTED_NONFINITE: Explanation(
        "A non-finite step was applied, as on_exhausted='accept' asks.",
        "Use on_exhausted='halt' or 'roll_back'.",
    ),
    Alert.REBASED: Explanation(
        "A lasting shift was taken as the new normal, or let through on request.",
        "Check that the shift was meant, such as a new data set or schedule.",
    ),
    Alert.MOMENTS_RESET: Explanation(
        "The optimizer state was set back to its start.",
        "Nothing to do; updates are larger than usual for a few steps.",
    ),
    Alert.REPAIRED: Explanation(
        "Gradient elements that were not finite were set to zero.",
        "Find their cause at the first bad leaf: a repaired step trains on less.",
    ),
    Alert.UPDATE_RATIO: Explanation(
        "The update was too large or too small for its parameters for a while.",
        "Above the band lower the learning rate; below it look for dead parameters.",
    ),
    Alert.SATURATED: Explanation(
        "Too large a share of a quantity sat at its bound, where gradients vanish.",
        "Widen the bound, or use one whose gradient stays alive.",
    ),
    Alert.EMPTY: Explanation(
        "Fewer elements were selected than a mean needs.",
        "Look at the mask or the selection of this batch.",
    ),
    Alert.SENTINEL: Explanation(
        "A metric had the value that stands for a missing one.",
        "Look at where it is computed: nothing was measured.",
    ),
    Alert.TRIVIAL: Explanation(
        "The loss is no better than that of a predictor that knows nothing.",
        "Check labels, masks and whether gradients reach the network.",
    ),
    Alert.OUT_OF_RANGE: Explanation(
        "A metric stayed outside the range that was given for a healthy run.",
        "Look at the column metric_range/streak that counts, and at its metric.",
    ),
    Alert.DAMAGED_BEFORE: Explanation(
        "The parameters, or the optimizer state, were not finite before the step.",
        "The batch and the loss are not to blame: restore a checkpoint from before the "
        "damage; TrainStep.audit names every damaged leaf. If only the optimizer state "
        "is damaged, stabjax.guards.reset_moments can start it anew.",
    ),
    Alert.LOSS_SCALE: Explanation(
        "The scaled gradient overflowed: the scale was lowered, or is at its floor.",
        "Nothing to do, unless it stays at its floor: then scaling is not the cure.",
    ),
    Alert.DEAD_GRADIENT: Explanation(
        "A gradient that is watched was exactly zero.",
        "The loss component may not reach those parameters: ask "
        "stabjax.loss_transforms.disconnected, look for clamps and stop_gradient.",
    ),
}

# Each is listed, so that a new alert must be given one.
_SEVERITIES: dict[Alert, Severity] = {
    Alert.NONFINITE_LOSS: "warning",
    Alert.NONFINITE_COMPONENT: "warning",
    Alert.NONFINITE_GRADIENT: "warning",
    Alert.NONFINITE_STATE: "warning",
    Alert.DAMAGED_BEFORE: "error",
    Alert.NORM_OVERFLOW: "information",
    Alert.GRADIENT_RANGE: "warning",
    Alert.CLIPPED: "information",
    Alert.LOSS_SPIKE: "information",
    Alert.GRADIENT_SPIKE: "information",
    Alert.UPDATE_SPIKE: "information",
    Alert.PLATEAU: "information",
    Alert.BACK_OFF: "warning",
    Alert.ROLLBACK: "error",
    Alert.HALT: "error",
    Alert.ACCEPTED_NONFINITE: "error",
    Alert.REBASED: "information",
    Alert.MOMENTS_RESET: "information",
    Alert.REPAIRED: "warning",
    Alert.UPDATE_RATIO: "information",
    Alert.SATURATED: "warning",
    Alert.EMPTY: "warning",
    Alert.SENTINEL: "warning",
    Alert.TRIVIAL: "warning",
    Alert.LOSS_SCALE: "information",
    Alert.DEAD_GRADIENT: "warning",
    Alert.OUT_OF_RANGE: "warning",
}


def explain(alert: Alert) -> Explanation:
    """Return cause and suggestion of one alert bit.

    Args:
        alert: Exactly one bit.

    Returns:
        The explanation.

    Raises:
        KeyError: If it is not exactly one bit.

    Example:
        >>> explain(Alert.NONFINITE_LOSS).cause
        'The loss was NaN or infinite.'
    """
    return _EXPLANATIONS[alert]


def severity(alert: Alert) -> Severity:
    """Return how grave one alert bit is.

    Args:
        alert: Exactly one bit.

    Returns:
        "information" for what healthy runs do too and a guard has dealt with, such as
        a step that stood out, or what was asked for; "warning" for a step that was not
        finite, for trouble that goes on, and for what should be looked at; "error"
        where training stopped, went back, or took what is not finite.

    Raises:
        KeyError: If it is not exactly one bit.

    Example:
        >>> severity(Alert.CLIPPED), severity(Alert.HALT)
        ('information', 'error')
    """
    return _SEVERITIES[alert]


def names_of(bits: int) -> tuple[str, ...]:
    """Return the names of the alerts in a bit set, lower case, lowest bit first.

    Example:
        >>> names_of(int(Alert.CLIPPED | Alert.HALT))
        ('clipped', 'halt')
    """
    return tuple(alert.name.lower() for alert in Alert if alert & bits and alert.name)
