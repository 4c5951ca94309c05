from .runner import (
    run_training as run_training,
)
