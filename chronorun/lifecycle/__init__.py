"""The expert lifecycle: experts are born, split, merged, pruned and revived while a model trains.

    from chronorun.governance import ControlConfig, Controller
    from chronorun.lifecycle import LifecycleConfig, LifecycleCoordinator

At every evaluation checkpoint ``LifecycleCoordinator.evaluate`` turns a snapshot and the
controller's decisions into signals, the signals into candidates, and those that no limit holds back
into edits of the model, its router and its optimizer at once. The policies (``cycle``, one module
an action) are pure functions without torch, so that logs can be replayed.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
