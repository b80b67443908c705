"""Sums that only all key holders together can open: additive threshold RLWE, unaudited.

No package that this project may depend on gives threshold keys on Python 3.11, so this is the
smallest scheme that does: the additive part of multiparty BFV (Asharov et al. 2012, "Multiparty
computation with low communication, computation and interaction via threshold FHE"; Mouchet et al.
2021, "Multiparty homomorphic encryption from ring-learning-with-errors", sections 4.1 to 4.3).
It has no multiplication, so no evaluation keys, no relinearisation and no modulus switching.

The claim. Let an adversary follow the protocol, see everything that is published, and hold the
secrets of all key holders but one. It learns the sum of the honest contributions of each round
that was opened, and else nothing, but for 2**-40 over the life of a key and for breaking ring
learning with errors at 128 bits.

The argument, step by step.
1. Keys. The public polynomial a comes from a hash, so nobody chose it. The honest holder publishes
   b = e - a s. Under RLWE, b is uniform to whoever lacks s and e. Holders commit to their b before
   any is shown: nobody can choose b' to cancel another's. The joint b is a sum with a uniform term.
2. Ciphertexts. (b u + e0 + D m, a u + e1) under a uniform b is two samples of RLWE with secret u:
   it is uniform too (Lyubashevsky, Peikert & Regev 2010). Secrets are uniform ternary, errors a
   centred binomial of standard deviation 3.24 (not below the standard's 3.19), and ring and modulus
   are held to the 128-bit table of the HE standard (Albrecht et al. 2018).
3. Shares. A holder answers a round with c1 s + f, where f is uniform in [-2**k, 2**k). Given all
   others' secrets, that is D m - c0 - (their parts) + (noise of the ciphertext) + f. Noise of the
   ciphertext is at most B in size, so leaving it out changes the law of the N coefficients by at
   most N B / 2**(k+1) in statistical distance; k is such that this, times the openings that a key
   allows, is at most 2**-40. What is left is computable from the sum alone.
4. Openings. A holder adds up the contributions itself, demands one from everybody and its own among
   them unchanged, and counts: it never opens a part of a sum, a round twice, or too many rounds.

Assumed besides: channels on which each party knows who sent what, and one list of contributions
that everybody sees alike.

What is not claimed. Adversaries who deviate: a contribution can be malformed, out of range or a
re-randomised copy of another's (zero-knowledge proofs would be needed), and a holder who is absent
stops the opening. Timing: sampling and arithmetic are not constant-time. Nobody but its authors has
examined this code: every output says so.
"""

UNAUDITED = "unaudited additive threshold RLWE: not examined by anybody but its authors"
