"""Policy store: one port, an etcd and a SQLite adapter."""
