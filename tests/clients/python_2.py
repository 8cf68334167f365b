"""The Python SDK `mcp` 2.x as a client of the conformance fixture behind a node: `python_2.py legacy|modern URL KEY`.

Prints what it saw as one JSON object; the test says what it should have been.
"""

import json
import sys
import warnings

import anyio
import httpx2
from mcp import Client, types
from mcp.client.streamable_http import streamable_http_client

URI = "test://static-text"
MODERN = "2026-07-28"
warnings.simplefilter("ignore")


async def main(era: str, url: str, key: str) -> None:
    asked: list[str] = []
    updated = anyio.Event()
    progress: list[float] = []
    seen: dict = {}

    async def elicit(context, params):
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"username": "ada", "email": "ada@example.org"})

    async def hear(message):
        if isinstance(message, types.ResourceUpdatedNotification):
            updated.set()

    async def on_progress(value, total, message):
        progress.append(value)

    async def change_until_told(client):
        with anyio.fail_after(20):
            while not updated.is_set():
                await client.call_tool("test_trigger_resource_change", {"uri": URI})
                with anyio.move_on_after(0.5):
                    await updated.wait()

    async def listen(subscription):
        async for _event in subscription:
            updated.set()

    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(url, http_client=http)
        mode = MODERN if era == "modern" else "legacy"
        async with Client(transport, mode=mode, elicitation_callback=elicit, message_handler=hear) as client:
            seen["protocol"] = client.protocol_version
            seen["tools"] = [tool.name for tool in (await client.list_tools()).tools]
            seen["text"] = (await client.call_tool("test_simple_text")).content[0].text
            await client.call_tool("test_tool_with_progress", progress_callback=on_progress)
            seen["progress"] = progress
            seen["read"] = (await client.read_resource(URI)).contents[0].text
            if era == "modern":
                async with client.listen(resource_subscriptions=[URI]) as subscription, anyio.create_task_group() as group:
                    group.start_soon(listen, subscription)
                    await change_until_told(client)
                    group.cancel_scope.cancel()
            else:
                await client.subscribe_resource(URI)
                await change_until_told(client)
            seen["updated"] = updated.is_set()
            answer = await client.call_tool("test_elicitation", {"message": "who are you?"})
            seen["elicited"] = answer.content[0].text
            seen["asked"] = asked
    print(json.dumps(seen))


anyio.run(main, *sys.argv[1:4])
