"""Side-by-side measurements against published ways to compute the same thing. Run from a checkout.

`python -m benchmarks.attention` and `python -m benchmarks.models`; `--help` lists the choices.
"""
