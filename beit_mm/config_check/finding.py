"""One finding about a config, and values as text."""

from dataclasses import dataclass

from ..checkpoint.published import NORMALIZATIONS

OFF = 'off'  # value of a part that a config does not use
IMAGENET, HALF = (  # (mean, std), 0 … 255
    (tuple(NORMALIZATIONS[name]['mean']), tuple(NORMALIZATIONS[name]['std']))
    for name in ('imagenet', 'half')
)


@dataclass(frozen=True)
class Finding:
    """Mistake, difference or risk in a config.

    Args:
        what: the setting, with its place in the config and its value where it has one.
        effect: what is wrong, what was expected and how to fix it.
        yours: the value, if `what` does not show it.
        expected: the paper's value, or the value that the rest of the config needs.
        stops: training would fail, or not do what the config says. Otherwise it is a remark.
    """

    what: str
    effect: str
    yours: str = ''
    expected: str = ''
    stops: bool = True

    def __str__(self) -> str:
        value = f'{self.yours}; ' if self.yours else ''
        return f'{self.what}: {value}{self.effect}'


def show_value(value: object) -> str:
    """Return a value of a config as text."""
    if value is None:
        return 'not stated'
    if isinstance(value, list | tuple):
        return ', '.join(map(show_value, value))
    return f'{value:.6g}' if isinstance(value, float) else str(value)
