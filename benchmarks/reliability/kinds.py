"""The kinds by name, in the order in which they are tried."""

from benchmarks.reliability.kills import Kills
from benchmarks.reliability.shared import Kind

KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Kills,)}
