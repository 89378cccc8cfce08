"""Which processes belong to which service execution environment (SEE) on this host.

Pure: ``facts`` (what is known of a process), ``conditions``, ``matching``, ``explain``, ``lineage``. At the
edge: ``procfs`` and ``cgroupfs`` read the kernel's files, ``forks`` listens to fork events.
``scan.Discovery`` joins them.
"""
