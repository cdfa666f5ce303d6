"""Text and tokens of the simulated providers.

A simulated provider has no vocabulary of its own, so it counts by one documented rule, for prompts and answers alike:

    A token is a run of up to eight characters other than white space, together with the white space before it.
    White space at the very end is one more token.

``"The cat"`` has two tokens, ``"internationalisation"`` three. The rule loses nothing: the tokens of a text, joined,
are the text. Answers are made of words of at most eight characters, so that an answer of ``n`` words has ``n`` tokens.
"""

from __future__ import annotations

import random
import re
import zlib

_TOKEN = re.compile(r"\s*\S{1,8}|\s+\Z")

# Words of one to eight characters, with accents, other scripts and emoji, so that whoever cuts the stream between two
# bytes of a character notices.
_WORDS = (
    "a the of and to in is that it for was on are as with at be this have from or by one had not but what all were "
    "when we there can an your which their said if do will each about how up out them then she many some so these "
    "would other into has more her two like him see time could no make than first been its who now people my made "
    "over did down only way find use may water long little very after words called just where most know get through "
    "back much before go good new write our used me man too any day same right look think also around another came "
    "come work three must because does part even place well such here take why help put years different away again "
    "off went old number great tell men say small every found still between name should home big give air line set "
    "own under read last never us left end along while might next sound below saw something thought both few those "
    "always looked show large often together asked house don't world going want school until form food keep "
    "children feet land side without boy once animals life enough took four head above kind began almost live page "
    "got earth need far hand high year mother light country father let night picture being study second soon story "
    "since white ever paper hard near sentence better best across during today however sure knew it's try told "
    "young sun thing whole hear example naïve café über señor façade Zürich Łódź кот мир слово данные 数据 模型 答案 "
    "こんにちは 안녕 🙂 🚀 é Ångström"
)
VOCABULARY = tuple(word for word in _WORDS.split() if len(word) <= 8)


def tokens_of(text: str) -> list[str]:
    """Split ``text`` into its tokens; joined, they are ``text``."""
    return _TOKEN.findall(text)


def count_tokens(text: str) -> int:
    """Count the tokens of ``text``."""
    return len(_TOKEN.findall(text))


def fingerprint(*parts: str | bytes | int | None) -> int:
    """Fold ``parts`` into 32 bits, the same in every process (unlike ``hash``): the seed of an answer."""
    value = 0
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        value = zlib.crc32(data, value)
    return value


def words(count: int, rng: random.Random) -> list[str]:
    """Draw ``count`` tokens of readable nonsense; all but the first begin with a space."""
    if count <= 0:
        return []
    first, *rest = rng.choices(VOCABULARY, k=count)
    return [first[:1].upper() + first[1:], *(" " + word for word in rest)]


def prompt_text(tokens: int, rng: random.Random) -> str:
    """A prompt of exactly ``tokens`` tokens by the rule above."""
    return "".join(words(tokens, rng))
