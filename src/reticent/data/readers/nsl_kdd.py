"""NSL-KDD: connections of a network, attacks or normal (Tavallaee et al. 2009, UNB/CIC)."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reticent.data.digest import check_rows, read_verified
from reticent.data.labels import encode_labels
from reticent.data.task import Task
from reticent.errors import ConfigError

SHA256 = "e0f61f6bb21bb07d7dbced53670f4dd5fb57e60c97c3b7b90c7a164145e633ed"
ROWS = 25_192
# Services by what their users do; the label alone says little of it.
GROUPS = {
    "web": ("http", "http_443", "http_8001", "http_2784"),
    "mail": ("smtp", "pop_3", "pop_2", "imap4"),
    "files": ("ftp", "ftp_data", "tftp_u"),
    "names": ("domain", "domain_u", "name", "hostnames"),
    "terminal": ("telnet", "ssh", "login", "shell", "exec", "klogin", "kshell"),
}
_SYMBOLIC = ("protocol_type", "service", "flag")


def nsl_kdd(folder: Path, *, public: str = "attack") -> Task:
    """25,192 connections (the 20 % training part). Public: attack or normal.

    `x`: the numeric fields (counts and bytes as log(1 + value)) and the symbolic ones one-hot.
    Private: `service`, the group of services that the connection used (web, mail, files, names,
    terminal, other): an intrusion detector needs no record of what people do. No users. The
    published test part has another mix of attacks on purpose and isn't read here.
    """
    if public != "attack":
        raise ConfigError(f"Expected public='attack', got public={public!r}.")
    stored = read_verified(folder / "KDDTrain+_20Percent.txt.gz", SHA256)
    lines = gzip.decompress(stored).decode().splitlines()
    fields = lines[0].split(",")
    check_rows(len(lines) - 1, ROWS, "KDDTrain+_20Percent")
    table = np.asarray([line.split(",") for line in lines[1:]])
    columns = dict(zip(fields, table.T, strict=True))
    blocks: list[NDArray[np.float32]] = []
    for field in fields[:-2]:
        if field in _SYMBOLIC:
            codes, names = encode_labels(columns[field], field)
            blocks.append(np.eye(len(names), dtype=np.float32)[codes])
        else:
            values = columns[field].astype(np.float32)
            blocks.append(np.log1p(values)[:, None] if values.max() > 1 else values[:, None])
    group_of = {
        service: index for index, services in enumerate(GROUPS.values()) for service in services
    }
    service = np.asarray([group_of.get(name, len(GROUPS)) for name in columns["service"]])
    return Task(
        name="nsl_kdd",
        x=np.hstack(blocks),
        public=(columns["attack"] != "normal").astype(np.int64),
        private={"service": service.astype(np.int64)},
        label="attack",
        source="NSL-KDD, Tavallaee et al. 2009, UNB/CIC",
        class_names=("normal", "attack"),
        attribute_names={"service": (*GROUPS, "other")},
    )
