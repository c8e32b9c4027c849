"""One module for each command of `python -m attn_matrix`: its arguments, and what it prints."""
