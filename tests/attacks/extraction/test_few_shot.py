import numpy as np
import pytest

from reticent.attacks.extraction.few_shot import decode_few_shot
from reticent.errors import DataError


def test_a_client_reads_a_label_code_with_one_label_per_class() -> None:
    labels = np.arange(60) % 4
    codes = np.array([2, 0, 3, 1])[labels][:, None].astype(np.float32)
    found = decode_few_shot(codes, labels, shots=1, repeats=5, alphabet=4)
    assert (found.decoded == labels).all()


def test_labelled_records_do_not_count_and_each_class_has_its_share() -> None:
    labels = np.arange(40) % 2
    found = decode_few_shot(labels[:, None].astype(float), labels, shots=3, repeats=4)
    assert ((~found.asked).sum(axis=1) == 6).all()
    assert ((~found.asked)[:, labels == 1].sum(axis=1) == 3).all()


def test_separate_clusters_are_decoded_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 3
    clusters = 8 * np.eye(3)[labels] + rng.normal(size=(600, 3))
    noise = rng.normal(size=(600, 3))
    shares = []
    for features in (clusters, noise):
        found = decode_few_shot(features, labels, shots=5, repeats=20)
        shares.append((found.decoded == labels)[found.asked].mean())
    assert shares[0] > 0.97
    assert 0.28 < shares[1] < 0.39


def test_too_few_records_are_refused() -> None:
    with pytest.raises(DataError, match="over 5 records"):
        decode_few_shot(np.zeros((8, 1)), np.arange(8) % 2, shots=5)
