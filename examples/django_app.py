"""Django in one file, with workflows in the same SQLite database as its models.

    python django_app.py runserver            # the web process
    python django_app.py worker               # the worker, beside it

A view writes an order with the ORM and starts its workflow in the same transaction: both happen, or
neither, wherever the process dies.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.db import close_old_connections, connection, models, transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

from perdure import ActionContext, MutationContext, Step, WorkflowManager, WorkflowNotFound

DATABASE = Path("shop.db")

settings.configure(
    DEBUG=True,
    SECRET_KEY="only for this example",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DATABASE,
            # IMMEDIATE: a transaction waits for the write lock when it begins. Else two that have
            # read and then want to write fail at once, whatever the timeout.
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
        }
    },
)
django.setup()

manager = WorkflowManager(DATABASE, retry_actions_by_default=True)


class Order(models.Model):  # type: ignore[misc]  # Django has no types
    """An order, as the shop sees it."""

    item = models.CharField(max_length=100)
    state = models.CharField(max_length=20, default="new")

    class Meta:
        app_label = "shop"


@manager.action
def book_parcel(ctx: ActionContext, order: int) -> str:
    # The ORM may be used in a `def` action: it runs in a thread, with a connection of its own.
    try:
        item = Order.objects.get(pk=order).item
    finally:
        close_old_connections()
    return f"a parcel with a {item}"


@manager.mutation
def set_state(ctx: MutationContext, order: int, state: str) -> None:
    # Not the ORM here, but the connection of the transaction that records the step.
    ctx.db.execute("update shop_order set state = ? where id = ?", (state, order))


@manager.workflow
async def ship(step: Step, order: int) -> str:
    parcel = await step.run_action(book_parcel(order))
    await step.run_mutation(set_state(order, "shipped"))
    return parcel


def place(request: HttpRequest) -> JsonResponse:
    """POST: a new order."""
    with transaction.atomic():
        order = Order.objects.create(item=json.loads(request.body)["item"])
        # Not `manager.sync.start`, which would wait for the lock that this transaction holds.
        manager.over(connection.connection).start(ship(order.pk), id=f"order-{order.pk}")
    return JsonResponse({"order": order.pk}, status=202)


def look(request: HttpRequest, number: int) -> JsonResponse:
    """How an order stands."""
    try:
        status: Any = manager.sync.status(f"order-{number}")
    except WorkflowNotFound:
        return JsonResponse({"error": "no such order"}, status=404)
    return JsonResponse({"status": status.kind, "state": Order.objects.get(pk=number).state})


urlpatterns = [path("orders", place), path("orders/<int:number>", look)]


def create_tables() -> None:
    """What migrations do in a project."""
    if Order._meta.db_table not in connection.introspection.table_names():
        with connection.schema_editor() as editor:
            editor.create_model(Order)


def main(arguments: list[str]) -> None:
    """A command of Django's, or `worker`."""
    create_tables()
    if arguments[1:2] == ["worker"]:
        connection.close()
        manager.run(until_idle="--until-idle" in arguments)
    else:
        execute_from_command_line(arguments)


if __name__ == "__main__":
    main(sys.argv)
