"""A model that may call tools, in a loop: it looks up the weather, and books a trip.

Three times wrong below: a forgotten `await`, a booking that is tried again without a key, and a
conversation that is kept outside of the workflow.
"""

from __future__ import annotations

import asyncio

import msgspec

import perdure

manager = perdure.WorkflowManager("agent.db", retry_actions_by_default=True)
TURNS_MAX = 8


class Answer(msgspec.Struct):
    """What the model wants: to call tools, or to end with a text."""

    text: str = ""
    tools: list[tuple[str, str]] = []


class Agency:
    """The travel agency's own interface; tests put another one in its place."""

    async def book(self, city: str, key: str | None) -> str:
        """Book a trip, once for each key."""
        raise NotImplementedError


agency = Agency()


@manager.action
async def ask_model(ctx: perdure.ActionContext, conversation: list[str]) -> Answer:
    raise NotImplementedError("the model's own interface")


@manager.action
async def weather(ctx: perdure.ActionContext, city: str) -> str:
    raise NotImplementedError("the weather service's own interface")


@manager.action
async def book(ctx: perdure.ActionContext, city: str) -> str:
    return await agency.book(city, key=ctx.idempotency_key)


@manager.workflow
async def agent(step: perdure.Step, task: str) -> str:
    async def call(tool: str, argument: str) -> str:
        try:
            if tool == "book":
                return await step.run_action(book(argument))
            return await step.run_action(weather(argument))
        except perdure.StepFailed as error:
            return f"{tool}: failed: {error.error.message}"  # the model may find another way

    conversation = [task]
    for _ in range(TURNS_MAX):
        answer = await step.run_action(ask_model(conversation))
        if not answer.tools:
            return answer.text
        conversation += await asyncio.gather(*(call(*tool) for tool in answer.tools))
    raise RuntimeError(f"no end after {TURNS_MAX} turns")


# --- wrong: nobody waits for the booking ----------------------------------------------------------


@manager.workflow
async def agent_in_a_hurry(step: perdure.Step, task: str) -> str:
    conversation = [task]
    for _ in range(TURNS_MAX):
        answer = await step.run_action(ask_model(conversation))
        if not answer.tools:
            return answer.text
        for tool, argument in answer.tools:
            if tool == "book":
                step.run_action(book(argument))  # begun; whether it is ever done, nobody asks
                conversation.append(f"booked {argument}")
            else:
                conversation.append(await step.run_action(weather(argument)))
    raise RuntimeError(f"no end after {TURNS_MAX} turns")


# --- wrong: the agency cannot tell a second attempt from a second trip ----------------------------


@manager.action
async def book_without_key(ctx: perdure.ActionContext, city: str) -> str:
    return await agency.book(city, key=None)


@manager.workflow
async def agent_that_books_twice(step: perdure.Step, task: str) -> str:
    async def call(tool: str, argument: str) -> str:
        try:
            if tool == "book":
                return await step.run_action(book_without_key(argument))
            return await step.run_action(weather(argument))
        except perdure.StepFailed as error:
            return f"{tool}: failed: {error.error.message}"

    conversation = [task]
    for _ in range(TURNS_MAX):
        answer = await step.run_action(ask_model(conversation))
        if not answer.tools:
            return answer.text
        conversation += await asyncio.gather(*(call(*tool) for tool in answer.tools))
    raise RuntimeError(f"no end after {TURNS_MAX} turns")


# --- wrong: what the process remembers, another one does not know ---------------------------------


conversations: dict[str, list[str]] = {}


@manager.workflow
async def agent_with_a_memory(step: perdure.Step, task: str) -> str:
    conversation = conversations.setdefault(step.workflow_id, [task])
    for _ in range(TURNS_MAX):
        answer = await step.run_action(ask_model(conversation))
        if not answer.tools:
            return answer.text
        for tool, argument in answer.tools:
            call = book(argument) if tool == "book" else weather(argument)
            conversation.append(await step.run_action(call))
    raise RuntimeError(f"no end after {TURNS_MAX} turns")
