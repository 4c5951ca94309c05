"""Soft control of routing: controller, lens, priors and probes.

Names, arguments, formulas and numbers are those of ChronoMoEv2 0.2.0, whose users change only their
import lines. The README of ``chronorun/telemetry`` lists the intended differences and shows a
closed loop. v2's ``ExpertState`` is not here: ``chronorun.lifecycle`` gives the name to the states
of an expert's life.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
