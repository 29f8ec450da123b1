"""Two checkouts train the same: `python -m benchmarks.same_updates OLD NEW`."""
