"""The controller: policy store, fleet-wide allocation, per-host targets, gRPC services."""
