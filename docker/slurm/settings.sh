# shellcheck shell=bash disable=SC2034  # prolog and health-check read this file
# What a node is checked with: edit it for your image and your container engine. The verdict is kept for 24 hours in
# ATTN_CACHE, so a job that starts meanwhile waits for less than a second.
CHECK=(
    docker run --rm --gpus all --user 0:0 --volume /var/cache/axolotl-attn:/cache
    --env ATTN_CACHE=/cache --env ATTN_SLOW=fail
    axolotl-attn:fa4-cu128 check
)
# The exit codes that drain a node: another one may do better.
DRAIN=(91 93 94)
