"""What of ``amaru.yaml`` says where the accounts are, and who is in the file: for commands that serve nothing.

They need none of the providers' keys, so those are not looked for: whoever keeps budgets need not have them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from amaru.accounts.directory_base import FromFile
from amaru.config import overrides
from amaru.config.accounts import Accounts, AccountsSettings, BudgetsSettings, TenantSettings, WebhookSettings
from amaru.config.accounts_checks import check_budgets, resolve
from amaru.config.checks import Names
from amaru.config.load import INIT, read_file, rendered
from amaru.config.models import StorageSettings
from amaru.config.secrets import Secrets
from amaru.errors import ConfigError
from amaru.files.document import read_document
from amaru.files.fields import Identifier, Section
from amaru.files.translate import validate


class AccountsFile(Section):
    """The parts of ``amaru.yaml`` that are about accounts."""

    tenants: dict[Identifier, TenantSettings] = Field(default={})
    budgets: BudgetsSettings = BudgetsSettings()
    storage: StorageSettings = StorageSettings()
    accounts: AccountsSettings = AccountsSettings()


@dataclass(frozen=True, slots=True)
class AccountsView:
    """Where the accounts are, and what the file has of them."""

    accounts: Accounts
    from_file: FromFile


def load_accounts(path: Path, env: Mapping[str, str] = os.environ, *, with_webhook: bool = False) -> AccountsView:
    """Read what is about accounts; the rest of the file is not looked at, and the webhook only where it is asked for.

    Raises ConfigError, with every mistake in that part.
    """
    document = read_document(read_file(path), INIT)
    data, sources, problems = overrides.apply(document.data, env)
    problems += document.problems
    file, _, mistakes = validate(AccountsFile, {name: data[name] for name in AccountsFile.model_fields if name in data})
    problems += mistakes
    if file is not None:
        secrets = Secrets(path.parent, env)
        problems += check_budgets(file.tenants, file.budgets)
        settings = file.accounts if with_webhook else file.accounts.model_copy(update={"webhook": WebhookSettings()})
        accounts, mistakes = resolve(
            settings,
            file.tenants,
            file.budgets,
            storage_path=path.parent / file.storage.path,
            secrets=secrets,
            overridden=sources,
        )
        problems += mistakes + secrets.problems
    if problems or file is None:
        raise ConfigError(rendered(problems, document, sources, str(path)))
    names = Names(data)
    from_file = FromFile(
        path=str(path),
        by_id={id: settings.tenant(id) for id, settings in file.tenants.items()},
        allowances=accounts.allowances,
        resources=frozenset(names.resources),
        providers=frozenset(names.providers),
    )
    return AccountsView(accounts, from_file)
