"""``utilctl demo``: a controller, two hosts and three services on one machine, for real."""
