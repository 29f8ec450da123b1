"""Side-by-side measurements against published ways to compute the same thing, and learning runs. Run from a checkout.

`unitrans bench` runs the speed suites; every module with a command says what it does with `--help`.
"""
