"""The sealed split: the encoder in the clear at the client, the rest on ciphertexts at the server.

Cut before its first layer, the client's encoder is empty and the whole network is encrypted: the
channel that recipes call `ckks` is this one, cut at the input.
"""
