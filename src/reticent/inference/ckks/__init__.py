"""The channel on ciphertexts: a polynomial network, evaluated under CKKS encryption."""
