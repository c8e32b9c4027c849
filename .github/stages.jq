# From `docker buildx bake --print`: the targets that other targets start from or copy from, which are worth building
# first, each once. Those of `second` need some of `first`.
def links: [.contexts // {} | .[] | select(startswith("target:")) | ltrimstr("target:")];
.target as $targets
| [$targets[] | links[]] | unique
| {first: map(select($targets[.] | links == [])), second: map(select($targets[.] | links != []))}
