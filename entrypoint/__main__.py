"""Started as `python -I -S /opt/attn/entrypoint` by the image: isolated from PYTHONPATH, the working directory and
site-packages, so that neither a user's `entrypoint` folder nor a slow `.pth` file stands in the way."""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from entrypoint.main import main

sys.exit(main(sys.argv[1:]))
