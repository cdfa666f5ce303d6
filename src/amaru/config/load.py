"""From a file's bytes to a ``Config``, or to the list of everything that is wrong with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from amaru.accounts.keys import ANONYMOUS
from amaru.accounts.pricing import PriceBook
from amaru.config import overrides
from amaru.config.accounts import Accounts
from amaru.config.accounts_checks import resolve
from amaru.config.checks import Names, check, check_shared_keys, offer_id, references
from amaru.config.demand import RoutingSettings
from amaru.config.models import ConfigFile
from amaru.config.prices import dated_prices
from amaru.config.secrets import Secrets
from amaru.config.settings import Alternate, Config, Provider, RefusedConfigError
from amaru.config.sharing import Sharing, resolve_sharing
from amaru.config.supply import OfferSettings, ProviderSettings, limit_field_at
from amaru.domain import Capability, Offer, PrefillStyle, Tenant
from amaru.errors import ConfigError
from amaru.files.document import MAX_BYTES, Document, read_document
from amaru.files.problems import MAX_PROBLEMS, Loc, Problem, dotted
from amaru.files.settings import CAPABILITIES
from amaru.files.translate import validate

INIT = "write one with: amaru init"


def load(path: str | Path, env: Mapping[str, str] = os.environ) -> Config:
    """Reads ``amaru.yaml``.

    Parameters
    ----------
    path
        The file. Relative paths in it start at its folder.
    env
        Holds the keys that the file names, and overrides (see ``overrides.py``).

    Raises
    ------
    ConfigError
        With every mistake, one line each, in the file's order:
        ``amaru.yaml:12: providers.openai.base_url: not a URL: "api.openai.com" — write it with https://, …``
    """
    return parse(read_file(Path(path)), path, env)


def read_file(path: Path) -> bytes:
    """The file's bytes, as many as may be and one more. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            # One byte more than allowed is enough to refuse it; /dev/zero has no end.
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        remedy = INIT if isinstance(error, FileNotFoundError) else "check the path"
        raise ConfigError([Problem((), error.strerror or "cannot be read", remedy).render(str(path))]) from None


def parse(content: str | bytes, path: str | Path = "amaru.yaml", env: Mapping[str, str] = os.environ) -> Config:
    """As ``load``, from text: ``path`` names it in messages, and its folder is where relative paths start."""
    raw = content.encode() if isinstance(content, str) else content
    path = Path(path)
    file = parts = None
    document = read_document(raw, INIT)
    data, sources, problems = overrides.apply(document.data, env)
    problems += document.problems
    secrets = Secrets(path.parent, env)
    # With no values at all, what is missing says nothing: the one mistake is in the syntax.
    if document.data or not document.problems:
        file, indices, mistakes = validate(ConfigFile, data, elements_of=("offers",))
        problems += mistakes
        if file is not None:
            refused = [mistake.loc for mistake in mistakes]
            problems += islice(check(file, indices["offers"], Names(data), refused), MAX_PROBLEMS)
            parts = _fetch(file, secrets, problems, sources)
    if problems or file is None or parts is None:
        raise RefusedConfigError(rendered(problems, document, sources, str(path)), (path, *sorted(secrets.files)))
    providers, key_hashes, accounts, sharing = parts
    prices = PriceBook({offer_id(settings): dated_prices(settings.price, settings.prices) for settings in file.offers})
    offers = tuple(_offer(settings, file.providers[settings.provider]) for settings in file.offers)
    digest = hashlib.sha256(raw)
    for name, content_digest in sorted(secrets.files.items()):
        digest.update(os.fsencode(name) + b"\0" + content_digest)
    return Config(
        path=path,
        file=file,
        digest=digest.digest(),
        watched=(path, *sorted(secrets.files)),
        overridden=MappingProxyType({dotted(loc): name for loc, name in sources.items()}),
        _providers=MappingProxyType(providers),
        _offers=prices.offers_at(offers, 0.0),
        prices=prices,
        _tenants=_tenants(file, key_hashes),
        accounts=accounts,
        sharing=sharing,
        operator_hashes=tuple(key_hashes.get("the operators", ())),
    )


def json_schema() -> dict[str, Any]:  # Any: JSON
    """The JSON Schema of ``amaru.yaml``, for editors; every field has its description."""
    schema = ConfigFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "amaru.yaml"}


def rendered(problems: list[Problem], document: Document, sources: Mapping[Loc, str], file: str) -> list[str]:
    """Every mistake in a line, each once, in the file's order."""
    placed: dict[str, tuple[int, str]] = {}
    for problem in problems:
        source = problem.source or sources.get(problem.loc)
        line = problem.line or document.line_of(problem.loc)
        text = Problem(problem.loc, problem.what, problem.remedy, line, problem.column, source).render(file)
        placed.setdefault(text, (0 if source else line or 0, text))
    return [text for _, text in sorted(placed.values(), key=lambda place: place[0])]


def _fetch(
    file: ConfigFile, secrets: Secrets, problems: list[Problem], overridden: Collection[Loc]
) -> tuple[dict[str, Provider], dict[str, list[str]], Accounts, Sharing]:
    """Providers with their keys, hashes of callers' keys by owner, and the sections whose secrets are fetched too.

    What could not be read is a problem.
    """
    providers = {id: _provider(id, settings, file.routing, secrets) for id, settings in file.providers.items()}
    hashes: list[tuple[Loc, str, str]] = []
    for loc, owner, reference in references(file):
        key_hash = secrets.caller_key_hash(loc, reference)
        if key_hash is not None:
            hashes.append((loc, owner, key_hash))
    storage_path = secrets.directory / file.storage.path
    accounts, mistakes = resolve(
        file.accounts, file.tenants, file.budgets, storage_path=storage_path, secrets=secrets, overridden=overridden
    )
    problems += mistakes
    sharing, mistakes = resolve_sharing(file.sharing, secrets, overridden)
    problems += mistakes
    problems += secrets.problems
    problems += check_shared_keys(hashes)
    by_owner: dict[str, list[str]] = {}
    for _, owner, key_hash in hashes:
        by_owner.setdefault(owner, []).append(key_hash)
    return providers, by_owner, accounts, sharing


def _provider(id: str, settings: ProviderSettings, routing: RoutingSettings, secrets: Secrets) -> Provider:
    loc: Loc = ("providers", id)
    timeouts = settings.timeouts
    ca_file = secrets.certificate_file((*loc, "ca_file"), settings.ca_file) if settings.ca_file else None
    headers = secrets.headers((*loc, "headers"), settings.headers)
    own = [
        secrets.headers((*loc, "alternates", place, "headers"), alternate.headers)
        for place, alternate in enumerate(settings.alternates)
    ]
    return Provider(
        id=id,
        protocol=settings.protocol,
        base_url=settings.base_url,
        key=secrets.provider_key(loc, settings),
        headers=MappingProxyType(headers),
        regions=settings.regions,
        connect_ms=timeouts.connect_ms,
        first_token_ms=timeouts.first_token_ms or routing.first_token_ms,
        answer_ms=timeouts.answer_ms or routing.answer_ms,
        idle_ms=timeouts.idle_ms or routing.idle_ms,
        max_connections=settings.max_connections,
        transport=settings.transport,
        ca_file=ca_file,
        verify_tls=settings.verify_tls,
        alternates=tuple(
            Alternate(alternate.base_url, MappingProxyType({**headers, **extra}))
            for alternate, extra in zip(settings.alternates, own, strict=True)
        ),
    )


def _offer(settings: OfferSettings, provider: ProviderSettings) -> Offer:
    capabilities = Capability.NONE
    for name in settings.capabilities:
        capabilities |= CAPABILITIES[name]
    return Offer(
        id=offer_id(settings),
        provider=settings.provider,
        resource=settings.resource,
        model=settings.model or settings.resource,
        kinds=settings.kinds,
        regions=settings.regions or provider.regions,
        context_window_tokens=settings.context_window_tokens,
        max_output_tokens=settings.max_output_tokens,
        limit_field=settings.limit_field or limit_field_at(provider.base_url),
        bills_beyond_limit=settings.bills_beyond_limit,
        price_covers=settings.price_covers,
        max_image_tokens=settings.max_image_tokens,
        capabilities=capabilities,
        latency_ms=settings.latency_ms,
        reputation=settings.reputation,
        prefill_style=settings.prefill_style or PrefillStyle.PLAIN,
        capacity=settings.capacity,
        requests_per_min=settings.requests_per_min,
        tokens_per_min=settings.tokens_per_min,
    )


def _tenants(file: ConfigFile, key_hashes: Mapping[str, list[str]]) -> tuple[Tenant, ...]:
    tenants = [settings.tenant(id, key_hashes.get(f"tenant {id}", ())) for id, settings in file.tenants.items()]
    if file.server.auth == "none" and ANONYMOUS.id not in file.tenants:
        tenants.append(ANONYMOUS)
    return tuple(tenants)
