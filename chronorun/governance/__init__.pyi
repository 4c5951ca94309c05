from .controller import (
    Controller as Controller,
)
from .decisions import (
    ControlDecision as ControlDecision,
)
from .lens import (
    ChronoLens as ChronoLens,
    IdentityLens as IdentityLens,
    LensState as LensState,
    SteeringMode as SteeringMode,
    compute_lens_aux_loss as compute_lens_aux_loss,
)
from .policy import (
    ControlConfig as ControlConfig,
    ControlState as ControlState,
    compute_lens_scale as compute_lens_scale,
    compute_topology_debt as compute_topology_debt,
    update_control_state as update_control_state,
)
from .priors import (
    LayerPriors as LayerPriors,
    apply_priors_to_state as apply_priors_to_state,
    load_priors as load_priors,
    save_priors as save_priors,
)
from .probes import (
    PathologyConfig as PathologyConfig,
    PathologyProbe as PathologyProbe,
    RecoveryTrajectory as RecoveryTrajectory,
    ResilienceSurface as ResilienceSurface,
    SeverityLevel as SeverityLevel,
    TrajectoryPoint as TrajectoryPoint,
    compare_surfaces as compare_surfaces,
)
