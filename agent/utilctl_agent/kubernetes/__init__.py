"""Pods as services: which pod a cgroup belongs to, and what labels the pod has."""
