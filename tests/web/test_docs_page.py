"""The page `/docs` of `graphjobs serve` consists of what the service itself answers."""

import re

import httpx
import pytest
from fastapi import FastAPI


async def test_the_page_refers_to_nothing_but_the_service(app: FastAPI) -> None:
    """Each script, style and icon is answered, behind a proxy with a path prefix, too; none is of another host."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test/") as client:
        page = await client.get("docs")
        links = re.findall(r'(?:href|src)="([^"]*)"', page.text)
        answers = [await client.get(link) for link in links]
        (start,) = [answer.text for link, answer in zip(links, answers, strict=True) if link.endswith("start.js")]
        answers += [page, await client.get(re.findall(r'url: "([^"]*)"', start)[0])]
    assert 4 == len(links)
    assert not [link for link in links if "//" in link or link.startswith("/")]
    assert "//" not in page.text + start
    assert {200} == {answer.status_code for answer in answers}
    for answer in answers[:-1]:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert "//" not in policy
        assert "nosniff" == answer.headers["x-content-type-options"]


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect", "/docs/assets/none.js"])
async def test_there_is_no_other_page(app: FastAPI, path: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert 404 == (await client.get(path)).status_code
