"""`--cfg-options` of the command line."""

import re

from mmengine.config import DictAction

NO_BLANK = '\0'  # stands for a blank; no argument of a program can hold it


class Options(DictAction):
    """`KEY=VALUE …` as mmengine reads it, with the blanks inside values, which its DictAction drops."""

    @staticmethod
    def _parse_iterable(val: str) -> object:
        between = re.sub(r'(?<=[\[(,])\s+|\s+(?=[\]),])', '', val.strip())
        return _with_blanks(DictAction._parse_iterable(between.replace(' ', NO_BLANK)))


def _with_blanks(value: object) -> object:
    if isinstance(value, list | tuple):
        return type(value)(map(_with_blanks, value))
    return value.replace(NO_BLANK, ' ') if isinstance(value, str) else value
