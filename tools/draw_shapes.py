"""Draw the data set Shapes: `python tools/draw_shapes.py OUT --train 12000 --val 2000`."""

import sys

from shapes.draw import main

if __name__ == '__main__':
    sys.exit(main())
