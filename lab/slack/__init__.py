"""
A small Slack to try the bot with, and to test it with: one process, on 127.0.0.1 only, without any account.

It speaks the part of Slack that the bot uses (Web API, Socket Mode, signed requests, response URLs) with Slack's own
limits and errors, and renders it as a page. It knows nothing of forkyard, and refuses loudly what it does not know.
"""
