"""The host as the scheduler sees it: ports, and adapters for the real kernel."""
