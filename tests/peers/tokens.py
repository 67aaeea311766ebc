"""Makes keys, and signs tokens with them: one JSON question a line, one JSON answer a line.

PyJWT signs what it is willing to sign; what no library would sign is put together by hand.
"""

import base64
import hashlib
import hmac
import json
import sys

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

SECRET = "0123456789abcdef" * 4


def make(kind):
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if kind == "p256":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "p384":
        return ec.generate_private_key(ec.SECP384R1())
    return ed25519.Ed25519PrivateKey.generate()


ALGORITHM = {"rsa": "RS256", "p256": "ES256", "p384": "ES384", "ed": "EdDSA"}
NAMES = ["rsa", "rsa2", "p256", "p384", "ed"]
KEYS = {name: make(name.rstrip("2")) for name in NAMES}


def pem(name):
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    key = KEYS[name].public_key().public_bytes(serialization.Encoding.PEM, spki)
    return key.decode()


def private(name):
    pkcs8 = serialization.PrivateFormat.PKCS8
    none = serialization.NoEncryption()
    return KEYS[name].private_bytes(serialization.Encoding.PEM, pkcs8, none).decode()


def jwk(name):
    algorithm = get_default_algorithms()[ALGORITHM[name.rstrip("2")]]
    return {**json.loads(algorithm.to_jwk(KEYS[name].public_key())), "kid": name}


def part(value):
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def by_hand(head, claims, secret):
    message = part(json.dumps(head).encode()) + "." + part(json.dumps(claims).encode())
    if secret is None:
        return message + "."
    return message + "." + part(hmac.new(secret.encode(), message.encode(), hashlib.sha256).digest())


def sign(question):
    claims, head = question["claims"], question.get("head", {})
    if "alg" in head:
        return by_hand(head, claims, question.get("secret"))
    name = question["key"]
    key = SECRET if name == "secret" else KEYS[name]
    return jwt.encode(claims, key, algorithm=question["alg"], headers=head)


keys = {name: {"pem": pem(name), "private": private(name), "jwk": jwk(name)} for name in NAMES}
print(json.dumps({"secret": SECRET, "keys": keys}), flush=True)
for line in sys.stdin:
    print(json.dumps(sign(json.loads(line))), flush=True)
