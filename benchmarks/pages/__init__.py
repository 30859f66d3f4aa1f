"""Pages: the only writer of blocks and figures; `python -m benchmarks.pages`."""
