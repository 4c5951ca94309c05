from .coordinator import (
    LifecycleCoordinator as LifecycleCoordinator,
)
from .decide.actions import (
    Action as Action,
)
from .decide.cycle import (
    LifecycleConfig as LifecycleConfig,
    advance as advance,
)
from .decide.policy_state import (
    PolicyState as PolicyState,
)
from .decide.signals import (
    ExpertSignals as ExpertSignals,
    LayerSignals as LayerSignals,
)
from .experts.basins import (
    BasinEntry as BasinEntry,
    BasinHistory as BasinHistory,
)
from .experts.records import (
    ExpertRecord as ExpertRecord,
)
from .experts.registry import (
    Registry as Registry,
)
from .experts.states import (
    ExpertState as ExpertState,
    LifecycleError as LifecycleError,
)
from .hook import (
    LifecycleHook as LifecycleHook,
)
from .record.decisions import (
    LifecycleDecision as LifecycleDecision,
)
from .record.logs import (
    LifecycleLogs as LifecycleLogs,
)
