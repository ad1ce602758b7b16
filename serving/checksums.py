"""Checksums of numbers that carry one: cards, accounts, national identifiers. Each takes what an expression found."""

from __future__ import annotations

__all__ = [
    "br_cpf",
    "ean13",
    "es_dni",
    "fr_nir",
    "iban",
    "iso7064_11_10",
    "it_codice_fiscale",
    "luhn",
    "nl_bsn",
    "se_luhn",
    "ssn",
    "verhoeff",
]


def _digits(found: str) -> list[int]:
    return [int(character) for character in found if character.isdigit()]


_VALUES = bytes.maketrans(b"0123456789", bytes(range(10)))
_DOUBLED = bytes.maketrans(bytes(range(10)), bytes(sum(divmod(2 * digit, 10)) for digit in range(10)))
_NO_DIGITS = bytes(set(range(256)) - set(b"0123456789"))
_AS_NUMBERS = {ord(letter): str(10 + nth) for nth, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ")}


def luhn(found: str) -> bool:
    """ISO/IEC 7812-1, annex B: 13 to 19 digits, every second one from the right doubled; sum divisible by 10."""
    digits = found.encode().translate(_VALUES, _NO_DIGITS)
    if not 13 <= len(digits) <= 19 or (sum(digits[-1::-2]) + sum(digits[-2::-2].translate(_DOUBLED))) % 10:
        return False
    return digits.count(digits[0]) < len(digits)


def iban(found: str) -> bool:
    """ISO 13616: the first four characters moved to the end, letters as 10…35, remainder 1 modulo 97."""
    plain = "".join(found.split()).upper()
    if not 15 <= len(plain) <= 34 or not plain.isascii() or not plain.isalnum():
        return False
    return int((plain[4:] + plain[:4]).translate(_AS_NUMBERS)) % 97 == 1


def ssn(found: str) -> bool:
    """US Social Security number: area not 000, 666 or 9xx, group not 00, serial not 0000 (SSA, 2011)."""
    area, group, serial = found.split("-") if "-" in found else found.split()
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


def br_cpf(found: str) -> bool:
    """Brazil's CPF: two check digits, each modulo 11."""
    digits = _digits(found)
    if len(digits) != 11 or len(set(digits)) == 1:
        return False
    for length in (9, 10):
        total = sum(digit * (length + 1 - nth) for nth, digit in enumerate(digits[:length]))
        if total * 10 % 11 % 10 != digits[length]:
            return False
    return True


def es_dni(found: str) -> bool:
    """Spain's DNI and NIE: the letter says the number modulo 23."""
    plain = found.replace("-", "").upper()
    number = str("XYZ".index(plain[0])) + plain[1:-1] if plain[0] in "XYZ" else plain[:-1]
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == plain[-1]


def fr_nir(found: str) -> bool:
    """France's NIR: 97 minus the number modulo 97; Corsica's letters count as 19 and 18."""
    plain = "".join(found.split()).upper().replace("2A", "19").replace("2B", "18")
    return len(plain) == 15 and plain.isdigit() and 97 - int(plain[:13]) % 97 == int(plain[13:])


_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (
            1,
            0,
            5,
            7,
            9,
            13,
            15,
            17,
            19,
            21,
            1,
            0,
            5,
            7,
            9,
            13,
            15,
            17,
            19,
            21,
            2,
            4,
            18,
            20,
            11,
            3,
            6,
            8,
            12,
            14,
            16,
            10,
            22,
            25,
            24,
            23,
        ),
        strict=True,
    )
)


def it_codice_fiscale(found: str) -> bool:
    """Italy's codice fiscale: the last letter says a sum modulo 26 (decree of 23 December 1976)."""
    plain = found.upper()
    total = sum(
        _ODD[character] if nth % 2 == 0 else (int(character) if character.isdigit() else ord(character) - 65)
        for nth, character in enumerate(plain[:15])
    )
    return len(plain) == 16 and total % 26 == ord(plain[15]) - 65


def ean13(found: str) -> bool:
    """GS1: thirteen digits, weights 1 and 3; Switzerland's AHV number is one."""
    digits = _digits(found)
    return len(digits) == 13 and sum(digit * (3 if nth % 2 else 1) for nth, digit in enumerate(digits)) % 10 == 0


def nl_bsn(found: str) -> bool:
    """The Netherlands' BSN: weights 9 to 2 and -1, divisible by 11."""
    digits = _digits(found)
    weights = (9, 8, 7, 6, 5, 4, 3, 2, -1)
    return len(digits) == 9 and any(digits) and sum(a * b for a, b in zip(digits, weights, strict=True)) % 11 == 0


def _dihedral(a: int, b: int) -> int:
    """The product in the dihedral group of order 10."""
    if a < 5:
        return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
    return 5 + (a - b) % 5 if b < 5 else (a - b) % 5


_TURNS = [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
for _ in range(6):
    _TURNS.append([_TURNS[-1][_TURNS[1][digit]] for digit in range(10)])


def verhoeff(found: str) -> bool:
    """J. Verhoeff, 1969; India's Aadhaar number is checked so."""
    check = 0
    for nth, digit in enumerate(reversed(_digits(found))):
        check = _dihedral(check, _TURNS[nth % 8][digit])
    return check == 0


def iso7064_11_10(found: str) -> bool:
    """ISO/IEC 7064, MOD 11,10; Germany's tax number is checked so, and one of its first ten digits stands twice or
    thrice."""
    digits = _digits(found)
    if len(digits) != 11 or len(set(digits[:10])) not in (8, 9):
        return False
    product = 10
    for digit in digits[:10]:
        product = ((digit + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == digits[10]


def se_luhn(found: str) -> bool:
    """Sweden's personnummer: Luhn over its last ten digits."""
    digits = found.encode().translate(_VALUES, _NO_DIGITS)[-10:]
    return len(digits) == 10 and (sum(digits[-1::-2]) + sum(digits[-2::-2].translate(_DOUBLED))) % 10 == 0
