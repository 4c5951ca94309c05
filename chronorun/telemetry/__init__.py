"""Routing telemetry: events, metrics, snapshots, alerts, and the recorder on the device.

Names, fields and thresholds are those of ChronoMoEv2 0.2.0, and each side reads the other's logs
(see the README of this room). Only the recorder and its buffers import torch. v2's ``ExpertState``
is not here: ``chronorun.lifecycle`` gives the name to the states of an expert's life.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
