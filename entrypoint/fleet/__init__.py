"""Reports of many nodes, or of one, as one picture: read, merged, and written as a page. A child package: needs Jinja2.

`nox -s fleet` uses it on the host, and `check --html` runs it in the container.
"""
