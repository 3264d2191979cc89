"""The command-line option `--cfg-options`."""

import re

from mmengine.config import DictAction

_BLANK = '\0'  # stands for a blank; no command-line argument can contain it


class Options(DictAction):
    """Variant of mmengine's DictAction that keeps blanks inside values."""

    @staticmethod
    def _parse_iterable(val: str) -> object:
        stripped = re.sub(r'(?<=[\[(,])\s+|\s+(?=[\]),])', '', val.strip())
        return _restore_blanks(DictAction._parse_iterable(stripped.replace(' ', _BLANK)))


def _restore_blanks(value: object) -> object:
    if isinstance(value, list | tuple):
        return type(value)(map(_restore_blanks, value))
    return value.replace(_BLANK, ' ') if isinstance(value, str) else value
