"""For all tests: hypothesis must not judge by the clock, since the machine that runs them may be slow and shared."""

from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
