"""OpenAI's completions over HTTP, of one model under several plans: a guest house, which the command alone goes to.

`requests` is what may be asked, `offered` the names of plans, `work` what a model does for whoever asks, many at once,
`queue` the thread that has it do so, `service` the way from a request to an answer, `answers` OpenAI's shapes of what
came of it, `app` the routes (Starlette), `server` what listens and ends (uvicorn).
"""
