"""The host side of axolotl-attn: images.yaml parsed once, then planned, rendered, built and run.

Start with `model` (what images.yaml says), `load` (how it is read), `render` (what is generated from it) and `engine`
(the only door to Docker). Nothing here imports torch.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
