"""Settings for all tests."""

from hypothesis import settings

# No deadline: the time of one example says nothing on a busy machine. Derandomised: the same commit tests the same.
settings.register_profile("unitrans", deadline=None, derandomize=True)
settings.load_profile("unitrans")
