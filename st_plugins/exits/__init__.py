"""Dynamic exits: each text leaves at the layer it needs, as early as texts of yours prove to be safe."""

from st_plugins.exit_criteria import Gate, Saturation
from st_plugins.exit_policies import Certificate, ExitPolicy
from st_plugins.exits.calibration import calibrate_exits
from st_plugins.exits.drift import Drift, check_drift
from st_plugins.exits.encoding import encode_with_exits
from st_plugins.exits.policy_tables import policy_table, write_policy_table
from st_plugins.exits.progressive import encode_progressively
from st_plugins.exits.risks import OverlapRisk

__all__ = [
    "Certificate",
    "Drift",
    "ExitPolicy",
    "Gate",
    "OverlapRisk",
    "Saturation",
    "calibrate_exits",
    "check_drift",
    "encode_progressively",
    "encode_with_exits",
    "policy_table",
    "write_policy_table",
]
