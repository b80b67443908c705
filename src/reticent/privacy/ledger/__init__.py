"""The durable privacy budget: data set, block, charge; granted, reserved, committed, verified."""

from reticent.privacy.ledger.cap import Cap, epsilon_at
from reticent.privacy.ledger.chain import Receipt, SigningKey
from reticent.privacy.ledger.cost import (
    ORDERS,
    Cost,
    approximate_dp,
    gaussian,
    pure_dp,
    rdp,
    zcdp,
)
from reticent.privacy.ledger.identity import dataset_digest, record_digests, user_digests
from reticent.privacy.ledger.ledger import Ledger
from reticent.privacy.ledger.statements import Balance, Charge, Dataset
from reticent.privacy.ledger.store import SQLiteStore, Store
from reticent.privacy.ledger.verification import Verified, verify

__all__ = [
    "ORDERS",
    "Balance",
    "Cap",
    "Charge",
    "Cost",
    "Dataset",
    "Ledger",
    "Receipt",
    "SQLiteStore",
    "SigningKey",
    "Store",
    "Verified",
    "approximate_dp",
    "dataset_digest",
    "epsilon_at",
    "gaussian",
    "pure_dp",
    "rdp",
    "record_digests",
    "user_digests",
    "verify",
    "zcdp",
]
