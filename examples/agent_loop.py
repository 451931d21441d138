"""An agent: a model that may call tools, in a loop that survives crashes, with a person to ask.

    python agent_loop.py

Each call of the model and of a tool is a step. After a crash the conversation is rebuilt from the
journal: no answer of the model is paid for twice. The model here is a few lines of Python, so that
the example runs anywhere; put yours into `ask_model`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import msgspec

import perdure

manager = perdure.WorkflowManager("agent.db", max_parallelism=4)
TURNS_MAX = 8


class Message(msgspec.Struct):
    """One entry of the conversation."""

    role: Literal["user", "model", "tool"]
    text: str


class Answer(msgspec.Struct):
    """What the model wants: to call tools, or to end with a text."""

    text: str = ""
    tools: list[tuple[str, str]] = []


permission = perdure.define_event("permission", bool)


def note(file: str, line: str) -> None:
    """So that one can count afterwards what was really done."""
    with Path(file).open("a", encoding="utf-8") as log:
        log.write(f"{line}\n")


@manager.action(retry=perdure.RetryPolicy(max_attempts=6, max_backoff=60), timeout=120)
async def ask_model(ctx: perdure.ActionContext, conversation: list[Message]) -> Answer:
    note("model.log", f"{len(conversation)} messages")
    await asyncio.sleep(0.2)  # it thinks
    results = [message.text for message in conversation if message.role == "tool"]
    if not results:
        return Answer(tools=[("weather", "Oslo"), ("weather", "Lima")])
    if len(results) == 2:
        return Answer(tools=[("book", "Lima")])
    return Answer(text=f"{results[-1]}; {results[1]}")


@manager.action(retry=True)
def weather(ctx: perdure.ActionContext, city: str) -> str:
    return f"{city}: {'rain' if city == 'Oslo' else 'sun'}"


@manager.action  # no retries: a trip that may have been booked is not booked again
def book(ctx: perdure.ActionContext, city: str) -> str:
    note("booked.log", city)
    return f"booked a trip to {city}"


@manager.workflow
async def agent(step: perdure.Step, task: str) -> str:
    async def call(tool: str, argument: str) -> Message:
        try:
            if tool == "weather":
                return Message("tool", await step.run_action(weather(argument)))
            if tool == "book":
                if not await step.await_event(permission, timeout=7 * 24 * 3600):
                    return Message("tool", "the user does not want that")
                return Message("tool", await step.run_action(book(argument)))
        except (perdure.StepFailed, TimeoutError) as error:
            return Message("tool", f"failed: {error}")  # the model may find another way
        return Message("tool", f"there is no tool {tool}")

    conversation = [Message("user", task)]
    for _ in range(TURNS_MAX):
        answer = await step.run_action(ask_model(conversation))
        if not answer.tools:
            return answer.text
        conversation.append(Message("model", f"calls {answer.tools}"))
        conversation += await asyncio.gather(*(call(*tool) for tool in answer.tools))
    raise RuntimeError(f"no end after {TURNS_MAX} turns")


async def main() -> None:
    """Start the agent once, give the permission, print the answer."""
    async with manager:
        workflow_id = await manager.start(agent("a trip to where the sun shines"), id="trip-1")
        status = await manager.status(workflow_id)
        if status.kind == "in_progress":
            # In life a person does this, hours later and from another process.
            await manager.send_event(permission, workflow_id=workflow_id, value=True)
        print(await manager.result(workflow_id))


if __name__ == "__main__":
    asyncio.run(main())
