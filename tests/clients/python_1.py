"""The Python SDK `mcp` 1.x as a client of the conformance fixture behind a node: `python_1.py streamable|sse URL KEY`.

Prints what it saw as one JSON object; the test says what it should have been.
"""

import json
import sys

import anyio
from mcp import ClientSession, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamablehttp_client
from pydantic import AnyUrl

URI = "test://static-text"


async def main(transport: str, url: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    connect = sse_client if transport == "sse" else streamablehttp_client
    asked: list[str] = []
    updated = anyio.Event()

    async def elicit(context, params):
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"username": "ada", "email": "ada@example.org"})

    async def hear(message):
        if isinstance(message, types.ServerNotification) and isinstance(
            message.root, types.ResourceUpdatedNotification
        ):
            updated.set()

    progress: list[float] = []

    async def on_progress(value, total, message):
        progress.append(value)

    seen: dict = {}
    async with (
        connect(url, headers=headers) as streams,
        ClientSession(streams[0], streams[1], elicitation_callback=elicit, message_handler=hear) as session,
    ):
        seen["protocol"] = (await session.initialize()).protocolVersion
        seen["tools"] = [tool.name for tool in (await session.list_tools()).tools]
        seen["text"] = (await session.call_tool("test_simple_text")).content[0].text
        await session.call_tool("test_tool_with_progress", progress_callback=on_progress)
        seen["progress"] = progress
        seen["read"] = (await session.read_resource(AnyUrl(URI))).contents[0].text

        await session.subscribe_resource(AnyUrl(URI))
        # the stream of notices is opened beside everything else
        with anyio.fail_after(20):
            while not updated.is_set():
                await session.call_tool("test_trigger_resource_change", {"uri": URI})
                with anyio.move_on_after(0.5):
                    await updated.wait()
        seen["updated"] = updated.is_set()

        answer = await session.call_tool("test_elicitation", {"message": "who are you?"})
        seen["elicited"] = answer.content[0].text
        seen["asked"] = asked
    print(json.dumps(seen))


anyio.run(main, *sys.argv[1:4])
