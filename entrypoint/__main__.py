"""The image starts this as `python -I -S /opt/attn/entrypoint`.

The two options keep PYTHONPATH, the working directory and site-packages out, so that neither a user's own `entrypoint`
folder nor a slow `.pth` file stands in the way.
"""

import gc
import os
import sys

if not __package__:
    gc.disable()  # a start lives for milliseconds, or waits for its children: there is nothing to collect
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

from entrypoint.main import main

sys.exit(main(sys.argv[1:]))
