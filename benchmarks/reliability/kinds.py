"""The kinds by name, in the order in which they are tried."""

from benchmarks.reliability.calls import Calls
from benchmarks.reliability.disk import Disk
from benchmarks.reliability.exploits import Exploits
from benchmarks.reliability.files import Files
from benchmarks.reliability.invocations import Invocations
from benchmarks.reliability.kills import Kills
from benchmarks.reliability.shared import Kind

KINDS: dict[str, type[Kind]] = {
    kind.name: kind for kind in (Kills, Invocations, Files, Calls, Exploits, Disk)
}
