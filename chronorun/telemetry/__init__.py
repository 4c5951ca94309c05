"""Routing telemetry: events, metrics, snapshots, alerts, and the recorder on the device.

Names, fields and thresholds are those of ChronoMoEv2 0.2.0; its log files can be read here and ours
there. Nothing but the recorder and its buffers imports torch. v2's ``ExpertState`` is not among
them: the registry of ``chronorun.lifecycle`` has taken its place, and there the name is that of the
stages of an expert's life.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
