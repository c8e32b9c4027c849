"""The report of a start, as a document and as text. Pure."""
