"""Settings that every test shares."""

from hypothesis import settings

# No test is judged by wall time, Hypothesis' own deadline included.
settings.register_profile("sunder", deadline=None)
settings.load_profile("sunder")
