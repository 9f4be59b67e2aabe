"""Reports on comparisons: the verdict in words, tables, figures and the page."""
