"""What kills, damage, wrong settings, hostile files and full disks do to a run or a command.

`python -m benchmarks.reliability --minutes 30` tries each kind for its share of the time and writes
docs/reliability.md. A trial is a number of a kind under a seed: the same number does the same again.
"""
