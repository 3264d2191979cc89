"""One finding about a config, and values as text."""

from dataclasses import dataclass

OFF = 'off'  # value of a part that a config does not use
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # mean and std, 0 … 255
HALF = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))


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
