"""A prediction service over teachers: each new question debits the ledger, until none is left.

**Claim.** All answers ever given, to all analysts together, satisfy the cap of the ledger's data
set, also when the process is killed at any moment. **Why.** What a question may cost is reserved
before votes are counted; an answer is stored, and returned, only after its charge is committed; a
crash in between loses the answer and keeps the charge.

A question asked again gets the stored answer and costs nothing. That is sound because what is
returned is what was released before, byte for byte: no votes are read, so nothing new is said,
whoever asks. (Fresh noise for the same question would have to be paid for again: its average over
many askings is the bare vote.) It does tell the second asker that somebody asked before, if the
balance is shown: private is the training data here, not the questions.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reticent.errors import BudgetExhaustedError, ConfigError
from reticent.privacy.ledger import Charge, Ledger, zcdp
from reticent.training.pate.accounting import answer_rho, check_rho
from reticent.training.pate.aggregation import Answer, noisy_plurality, passes
from reticent.training.pate.mechanisms import ConfidentGNMax, GNMax
from reticent.training.pate.noise import SecureVoteNoise
from reticent.training.pate.teachers import Teachers
from reticent.training.pate.votes import PrivateVotes


class AnswerBook:
    """Released answers in an SQLite file, durable: one per question and mechanism."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS answer "
                "(question TEXT PRIMARY KEY, label INTEGER, source TEXT NOT NULL)"
            )
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ConfigError(
                f"Expected a book of answers in {path.name!r}, got: {error}. Choose another file."
            ) from error

    def find(self, question: str) -> Answer | None:
        """The answer that was released for this question, if any."""
        row = self._db.execute(
            "SELECT label, source FROM answer WHERE question = ?", (question,)
        ).fetchone()
        return None if row is None else Answer(label=row[0], source=row[1])

    def keep(self, question: str, answer: Answer) -> Answer:
        """Store a released answer; the one that stands, which may be another process's."""
        self._db.execute(
            "INSERT INTO answer VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (question, answer.label, answer.source),
        )
        return self.find(question) or answer

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class PrivatePredictions:
    """Answers single questions by GNMax or confident GNMax; safe for threads and processes.

    `name` tells one set of teachers from another: a new set must have a new name, or it would
    repeat the old set's answers (which is private, but stale).
    """

    def __init__(
        self,
        teachers: Teachers,
        mechanism: GNMax | ConfidentGNMax,
        *,
        ledger: Ledger,
        dataset: str,
        answers: Path,
        name: str,
    ) -> None:
        if not isinstance(mechanism, GNMax | ConfidentGNMax):
            raise ConfigError(
                "Expected GNMax or ConfidentGNMax, which need no student, got "
                f"mechanism={mechanism}."
            )
        self._teachers, self.mechanism, self.name = teachers, mechanism, name
        self._ledger, self._dataset = ledger, ledger.dataset(dataset).id
        self._book, self._lock = AnswerBook(answers), threading.Lock()
        self._context = f"{name}\n{dataset}\n{mechanism!r}"

    def ask(self, x: NDArray[np.float32], *, analyst: str = "") -> Answer:
        """The answer to one input of shape (...); charged unless it was given before.

        `BudgetExhaustedError` (exit 4) where label and check together don't fit the cap any more:
        then nothing is charged and nothing is computed.
        """
        question = self._digest(x)
        with self._lock:
            found = self._book.find(question)
            if found is not None:
                return found
            label, check = self._reserve(question, analyst)
            answer = self._answered(self._votes(x), label, check)
            return self._book.keep(question, answer)

    def _reserve(self, question: str, analyst: str) -> tuple[Charge, Charge | None]:
        """The charges of a label and of its check: both, or none and an error."""
        # A key of its own: a question whose answer a crash has lost is paid for again.
        key = f"pate {question[:32]} {uuid.uuid4()}"
        cost = zcdp(rho=answer_rho(self.mechanism))
        label = self._ledger.reserve(self._dataset, cost, key=key, analyst=analyst)
        if isinstance(self.mechanism, GNMax):
            return label, None
        cost = zcdp(rho=check_rho(self.mechanism))
        try:
            check = self._ledger.reserve(self._dataset, cost, key=f"{key} check", analyst=analyst)
        except BudgetExhaustedError:
            self._ledger.cancel(label.id)
            raise
        return label, check

    def _answered(self, votes: PrivateVotes, label: Charge, check: Charge | None) -> Answer:
        noise = SecureVoteNoise()
        if check is not None and isinstance(self.mechanism, ConfidentGNMax):
            self._ledger.start(check.id)
            is_sure = passes(votes, self.mechanism, noise)
            self._ledger.commit(check.id)
            if not is_sure:
                # The label was never drawn, so its charge goes back.
                self._ledger.cancel(label.id)
                return Answer(label=None, source="nobody")
        self._ledger.start(label.id)
        found = noisy_plurality(votes, self.mechanism.sigma, noise)
        self._ledger.commit(label.id)
        return Answer(label=found, source="teachers")

    def _votes(self, x: NDArray[np.float32]) -> PrivateVotes:
        return self._teachers.votes(np.ascontiguousarray(x)[None])

    def _digest(self, x: NDArray[np.float32]) -> str:
        """Of the input's bytes, with its shape and with who answers how."""
        whole = np.ascontiguousarray(x, dtype="<f4")
        about = f"{self._context}\n{whole.shape}\n".encode()
        return hashlib.sha256(about + whole.tobytes()).hexdigest()

    def close(self) -> None:
        """Close the book of answers; the ledger is its owner's."""
        self._book.close()
