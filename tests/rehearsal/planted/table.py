"""The defects by name."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from . import backward, conduct, forward
from .call import Call

# Planted around the attention that a model calls.
ATTENTIONS: Final[dict[str, Callable[[Call], Any]]] = {
    "documents see each other": forward.documents_leak,
    "the second document sees the first": forward.second_document_sees_first,
    "documents overlap by one token": forward.documents_overlap,
    "causal lost": forward.causal_lost,
    "one future token seen": forward.next_token_seen,
    "diagonal hidden": forward.itself_hidden,
    "last tile of keys dropped": forward.last_tile_dropped,
    "window dropped": forward.window_dropped,
    "window one short": forward.window_one_short,
    "window one long": forward.window_one_long,
    "scale dropped": forward.scale_dropped,
    "scale 1/d": forward.scale_of_one_over_d,
    "scale 2 % off": forward.scale_two_percent_off,
    "the model's own scale ignored": forward.scale_of_head_dim,
    "softcap dropped": forward.softcap_dropped,
    "sinks dropped": forward.sinks_dropped,
    "kv heads interleaved": forward.kv_heads_interleaved,
    "keys and values of the first row for all": forward.first_row_for_all,
    "second half of the heads zero": forward.second_half_of_heads_zero,
    "heads rotated in the output": forward.heads_rotated,
    "NaN where a row is padding": forward.nan_where_padded,
    "weights of 5 bits": forward.coarse_weights,
    "inputs rounded to bfloat16": forward.half_precision,
    "dropout although 0": forward.dropout_though_zero,
    "output of the call before": conduct.stale_output,
    "gradient of q cut": backward.query_cut,
    "gradient of k cut": backward.key_cut,
    "gradient of v cut": backward.value_cut,
    "no gradient at all": backward.all_cut,
    "gradient of v 2 % small": backward.value_two_percent_small,
    "gradient of k NaN": backward.key_not_a_number,
    "gradients of a group not summed": backward.group_not_summed,
    "softmax's gradient lacks its row sum": backward.softmax_lacks_row_sum,
    "softcap not in the gradient": backward.softcap_not_in_gradient,
    "another path with gradients": conduct.other_path_with_gradients,
    "wrong once the weights have changed": conduct.wrong_once_learned,
    "crash at the first step": conduct.crash,
    "crash in the backward": conduct.crash_in_backward,
    "crash at the second step": conduct.crash_once_learned,
    "segmentation fault": conduct.segmentation_fault,
    "hang": conduct.hang,
    "a hub asked": conduct.hub_asked,
    "another kernel than asked": conduct.another_kernel,
}
# Planted into transformers.masking_utils, whose functions make the masks of every attention.
MASKS: Final[dict[str, Callable[[ModuleType], None]]] = {
    "no packed documents found": forward.no_documents_found,
    "window of the mask one long": forward.window_of_the_mask_one_long,
}
