"""Products by oneDNN are products."""

from __future__ import annotations

import pytest
import torch

from reticent.models import products


@pytest.mark.skipif(not products._has_onednn(), reason="no AVX-512 here")
def test_a_product_of_views_is_that_in_float64() -> None:
    source = torch.Generator().manual_seed(0)
    a, b = torch.randn(70, 300, generator=source), torch.randn(90, 300, generator=source)
    bias = torch.randn(90, generator=source)
    exact = a.double() @ b.double().T
    for left, right in ((a, b), (a.T.contiguous().T, b), (a, b.T.contiguous().T)):
        found = products.product(left, right)
        assert (found - exact).abs().max() < 1e-4
        assert (products.product(left, right, bias) - exact - bias).abs().max() < 1e-4


def test_small_products_stay_where_they_are() -> None:
    assert not products.is_large(64, 64, 10)
    assert products.is_large(64, 784, 64) is products._has_onednn()
