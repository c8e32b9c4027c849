# From `nox -s plan -- --json`: what the pull request says of the exclusions that are due.
[.exclusions[] | select(.overdue)] as $due
| "New digests of the base images, and new versions of what is locked but not pinned.",
  "",
  (if $due == [] then "No exclusion is due for review."
   else "These exclusions are due for review:", "", ($due[] | "- \(.combination): \(.reason) (\(.source))") end)
