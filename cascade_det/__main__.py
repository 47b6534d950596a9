"""``python -m cascade_det`` is the command line."""

import sys

from cascade_det.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
