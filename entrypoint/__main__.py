"""The image starts this as `python -I -S /opt/attn/entrypoint`.

The two options keep PYTHONPATH, the working directory and site-packages out, so that neither a user's own `entrypoint`
folder nor a slow `.pth` file stands in the way.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from entrypoint.main import main

sys.exit(main(sys.argv[1:]))
