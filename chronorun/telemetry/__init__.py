"""Routing telemetry."""
