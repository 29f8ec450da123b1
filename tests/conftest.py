"""Settings for all tests."""

import os

from hypothesis import settings

# No test asks the network; those of the hub give their own processes a server on this machine.
os.environ["HF_HUB_OFFLINE"] = "1"

# No deadline: the time of one example says nothing on a busy machine. Derandomised: the same commit tests the same.
settings.register_profile("unitrans", deadline=None, derandomize=True)
settings.load_profile("unitrans")
