"""`python -P -m attn_matrix`: see `attn_matrix.cli`."""

import gc
import sys

from attn_matrix.cli import main

gc.disable()  # a command keeps what it makes to its end: the search for circles is a tenth of `render`
sys.exit(main())
