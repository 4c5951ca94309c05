"""Soft control of routing: controller, lens, priors and probes.

Names, arguments, formulas and numbers are those of ChronoMoEv2 0.2.0, whose users change only their
import lines. It differs on purpose in this:

- **Modes can switch.** v2 gives a mode up below a score that lies under the floor of all scores, so
  it never does. Here ``mode_switch_threshold`` (0.25) lies above the floor (0.2).
- **The lens reads the router's live rows.** v2 keeps a clone from when it was attached, and steers
  by weights that training has long moved on from.
- **The population may change.** ``n_experts`` follows each snapshot; the jump of the top-2 share
  that an edit brings by itself is not blamed on the lens; and a lens whose shares do not fit its
  router's rows waits for new ones, since slots may have moved.
- **Files stay open.** v2 opens the log for every record; here each record is one write, and
  ``Controller.close`` ends it.
- **The lens draws from a generator of its own**, so that a run with an idle lens is bit-identical
  to a run without one. Its auxiliary loss squares shortfall and excess, so that it is smooth at the
  targets, and its norms are those of U and V: the direction's is always 1 or 0.
- **Priors keep the backoff itself** in ``backoff_bias``, where v2 keeps what it lacks to 1; v2's
  files are converted when they are read.
- **A probe's summary can be made again**, and no severity is left out: names of your own follow
  v2's four in curves and comparisons.

One name means another thing here: ``ExpertState(layer_id, expert_id)``, v2's rolling share and
dead-step counter, is superseded by the registry of ``chronorun.lifecycle``, whose ``ExpertState``
is the enum of an expert's stages of life.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
