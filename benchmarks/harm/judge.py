"""When a run counts as harmed, and when it counts as recovered.

All of it is arithmetic on the numbers of finished runs.

Scores are compared by their *difference*: ``log(score / reference)`` where every score
of the comparison is positive, else ``(score - reference)`` over the mean of
``|reference|``. For small differences both are the relative difference; the logarithm
also serves runs that end anywhere between 1e-30 and 1e-26. A score that is not finite
differs by infinity.

The *noise* of a run is what two unguarded runs differ by that have the same data but
other first parameters and random keys, its twins: the root mean square of that
difference over seeds and twins. The mean difference over ``n`` seeds is then known to
``noise / sqrt(n)``, and is more than an allowance only if it exceeds ``allowance +
2 noise / sqrt(n)``.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

REFUSED_SHARE = 0.005
HARM = 0.01
RECOVERY = 0.05

Line = Mapping[str, Any]
Level = Callable[[str], str]


class Comparison(NamedTuple):
    """How the scores of one setting stand to those of its reference.

    Attributes:
        difference: Mean over the seeds, positive where the setting is worse.
        noise: Of one difference between two unguarded runs.
        seeds: Seeds that both have.
    """

    difference: float
    noise: float
    seeds: int

    def exceeds(self, allowance: float) -> bool:
        """Return whether it is worse by more than the allowance beyond the noise."""
        return not self.difference <= allowance + 2 * self.noise / math.sqrt(self.seeds)


def compare(lines: Sequence[Line], references: Sequence[Line]) -> Comparison:
    """Compare scores seed by seed.

    Args:
        lines: One per seed, with ``seed`` and ``score`` (None: not finite).
        references: The same of the reference, with the scores of its ``twins``.

    Raises:
        ValueError: If they have no seed in common, or a reference is not finite.
    """
    wanted = {line["seed"]: line for line in references}
    pairs = [(line, wanted[line["seed"]]) for line in lines if line["seed"] in wanted]
    if not pairs:
        raise ValueError("compare: lines and references must have a seed in common.")
    scores = [line["score"] for line, _ in pairs]
    plain = [line["score"] for _, line in pairs]
    twins = [list(line["twins"]) for _, line in pairs]
    clean = [*plain, *itertools.chain.from_iterable(twins)]
    if any(score is None for score in clean):
        raise ValueError("compare: the reference and its twins must be finite.")
    finite = [score for score in scores if score is not None]
    positive = all(score > 0 for score in [*clean, *finite])
    scale = sum(abs(score) for score in plain) / len(plain)

    def difference(score: float | None, reference: float) -> float:
        if score is None:
            return math.inf
        if positive:
            return math.log(score) - math.log(reference)
        if score == reference:
            return 0.0  # also where the scale is zero
        apart = score - reference
        return apart / scale if scale else math.copysign(math.inf, apart)

    differences = [difference(s, r) for s, r in zip(scores, plain, strict=True)]
    squares = [
        difference(twin, reference) ** 2
        for reference, others in zip(plain, twins, strict=True)
        for twin in others
    ]
    noise = math.sqrt(sum(squares) / len(squares)) if squares else 0.0
    return Comparison(sum(differences) / len(differences), noise, len(pairs))


def harm(
    lines: Sequence[Line], references: Sequence[Line], level: Level
) -> tuple[str, ...]:
    """Return why a healthy run is harmed by a setting; nothing if it is not.

    Harm is, in any seed, more than 0.5 % of the steps refused, a halt, a rollback, or
    an alert above information; or, over the seeds, a score that is worse than the
    reference by more than 1 % beyond the noise, or not finite.

    Args:
        lines: Of the setting, one per seed, with ``steps``, ``refused``, ``halted``,
            ``rollbacks``, ``alerts`` and ``score``.
        references: Of its reference, see `compare`.
        level: Name of an alert to ``"information"``, ``"warning"`` or ``"error"``.
    """
    reasons = []
    share = max(line["refused"] / line["steps"] for line in lines)
    if share > REFUSED_SHARE:
        reasons.append(f"refused {100 * share:.1f} %")
    if any(line["halted"] for line in lines):
        reasons.append("halted")
    if any(line["rollbacks"] for line in lines):
        reasons.append("rolled back")
    seen = {name for line in lines for name in line["alerts"]}
    above = sorted(name for name in seen if level(name) != "information")
    if above:
        reasons.append("alerts: " + ", ".join(above))
    found = compare(lines, references)
    if found.exceeds(HARM):
        reasons.append(f"score {100 * math.expm1(min(found.difference, 50)):+.2g} %")
    return tuple(reasons)


def recovered(lines: Sequence[Line], references: Sequence[Line]) -> bool:
    """Return whether a run with a fault ended where the clean run does.

    The scores are, over the seeds, worse than those of the clean reference by no more
    than 5 % beyond the noise, all of them finite, and no seed was halted: a halt ends
    a run, however good it was by then.

    Args:
        lines: Of the run with the fault, one per seed.
        references: Of the reference without it, see `compare`.
    """
    halted = any(line["halted"] for line in lines)
    return not halted and not compare(lines, references).exceeds(RECOVERY)
