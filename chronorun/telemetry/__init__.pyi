from .alerts import (
    AlertHistory as AlertHistory,
    check_immediate_alerts as check_immediate_alerts,
)
from .events import (
    RoutingEvent as RoutingEvent,
)
from .manifest import (
    create_run_manifest as create_run_manifest,
    get_git_commit as get_git_commit,
)
from .metrics import (
    compute_entropy as compute_entropy,
    compute_gini_coefficient as compute_gini_coefficient,
    compute_layer_metrics as compute_layer_metrics,
    compute_n_effective as compute_n_effective,
    compute_top2_share as compute_top2_share,
    compute_utilization_shares as compute_utilization_shares,
    count_dead_experts as count_dead_experts,
    count_nearly_dead_experts as count_nearly_dead_experts,
)
from .recorder import (
    RoutingRecorder as RoutingRecorder,
)
from .snapshots import (
    LayerSnapshot as LayerSnapshot,
    SystemSnapshot as SystemSnapshot,
)
from .windows import (
    LayerWindow as LayerWindow,
    WindowStats as WindowStats,
)
from .writer import (
    TelemetryWriter as TelemetryWriter,
    load_events as load_events,
    load_manifest as load_manifest,
    load_snapshots as load_snapshots,
)
