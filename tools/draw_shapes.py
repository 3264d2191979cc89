"""Draw the data set Shapes: `python tools/draw_shapes.py OUT --train 12000 --val 2000`."""

import sys

from command_line import errors_on_one_line
from shapes.draw import main

if __name__ == '__main__':
    with errors_on_one_line():
        sys.exit(main())
