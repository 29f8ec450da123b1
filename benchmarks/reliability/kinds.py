"""The kinds by name, in the order in which they are tried."""

from benchmarks.reliability.calls import Calls, SanitizedCalls, sanitized_build
from benchmarks.reliability.damaged import Damaged
from benchmarks.reliability.disk import Disk
from benchmarks.reliability.exploits import Exploits
from benchmarks.reliability.invocations import Invocations
from benchmarks.reliability.kills import Kills
from benchmarks.reliability.shared import Kind

_ALL: tuple[type[Kind], ...] = (Kills, Invocations, Damaged, Calls, SanitizedCalls, Exploits, Disk)
KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in _ALL}
#: Those that can be tried here.
HERE = [name for name in KINDS if name != SanitizedCalls.name or sanitized_build() is not None]
