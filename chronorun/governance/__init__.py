"""Soft control of routing."""
