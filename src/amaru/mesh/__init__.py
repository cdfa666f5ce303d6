"""The loop, put together from the rooms below: sense, decide, act, record, learn. The library's front door.

``Mesh`` holds the parts that outlive a configuration (store, metrics); ``Plan`` is one configuration made ready to
serve; ``Execution`` is one request's single passage through the loop; ``Views`` are what people read. Nothing else in
amaru decides, calls a provider or learns.
"""

from amaru.mesh.artifact import ArtifactSource
from amaru.mesh.call import Call
from amaru.mesh.execution import Execution
from amaru.mesh.ledger import LedgerStatus, MeshLedger
from amaru.mesh.ledger_metrics import LedgerCollector
from amaru.mesh.ledger_reading import DecisionReceipts
from amaru.mesh.member import Member
from amaru.mesh.mesh import Mesh
from amaru.mesh.owner import Owner, WorkersCollector
from amaru.mesh.plan import Plan
from amaru.mesh.repricing import follow_prices
from amaru.mesh.views import Views

__all__ = [
    "ArtifactSource",
    "Call",
    "DecisionReceipts",
    "Execution",
    "LedgerCollector",
    "LedgerStatus",
    "Member",
    "Mesh",
    "MeshLedger",
    "Owner",
    "Plan",
    "Views",
    "WorkersCollector",
    "follow_prices",
]
