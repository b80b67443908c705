"""A transcript keeps what crossed, and shows each adversary its own part only."""

from __future__ import annotations

import numpy as np

from reticent.guarantee import CLIENT, SERVER, Adversary
from reticent.transcript import Message, Transcript


def filled() -> Transcript:
    transcript = Transcript()
    transcript.record("client", "server", "code", np.array([[3], [1]], np.uint8))
    transcript.record("server", "client", "scores", np.zeros((2, 4), np.float32))
    transcript.record("client", "client", "log", "made a request")
    transcript.record("bystander", "another", "secret", "not for the server")
    return transcript


def test_order_and_number_are_kept() -> None:
    transcript = filled()
    assert len(transcript) == 4
    assert [message.name for message in transcript] == ["code", "scores", "log", "secret"]


def test_a_view_holds_what_the_adversary_sent_received_or_logged_and_nothing_else() -> None:
    transcript = filled()
    assert [m.name for m in transcript.view(SERVER)] == ["code", "scores"]
    assert [m.name for m in transcript.view(CLIENT)] == ["code", "scores", "log"]
    stranger = Adversary(name="stranger", sees="nothing", knows="nothing")
    assert len(transcript.view(stranger)) == 0


def test_later_changes_cannot_rewrite_history() -> None:
    transcript, array = Transcript(), np.array([1.0, 2.0], np.float32)
    transcript.record("client", "server", "features", array)
    array[:] = 9
    kept = next(iter(transcript)).payload
    assert isinstance(kept, np.ndarray)
    assert kept.tolist() == [1.0, 2.0]


def test_sizes_are_bytes_on_the_wire() -> None:
    sizes = [message.size for message in filled()]
    assert sizes[:3] == [2, 32, len("made a request")]
    ciphertexts = np.array([b"x" * 1000, b"y" * 24], dtype=object)
    sealed = Message(sender="client", receiver="server", name="ciphertext", payload=ciphertexts)
    assert sealed.size == 1024
    accented = Message(sender="a", receiver="b", name="text", payload="é")
    assert accented.size == 2


def test_a_message_describes_itself_in_one_line() -> None:
    first, second, *_ = filled()
    assert first.describe() == "client -> server  code: uint8[2, 1] [3, 1]  (2 bytes)"
    assert "float32[2, 4]" in second.describe()
    assert "\n" not in second.describe()


def test_messages_compare_by_identity_not_by_arrays_of_truths() -> None:
    first, *_ = filled()
    assert first == first
    assert first in [first]
    assert len({first, first}) == 1
