"""Progress on the screen, ``train.log`` and W&B. A tracker that fails never stops a run."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
