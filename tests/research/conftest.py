from tests.personalization.conftest import world  # noqa: F401
