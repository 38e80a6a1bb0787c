"""Run the command line as `python -m onnx_expand`."""

import sys

from onnx_expand.cli import main

if __name__ == "__main__":
    sys.exit(main())
