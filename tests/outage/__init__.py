"""Real memcacheds that fail in every way there is, while a fleet serves traffic: `make outage`."""
