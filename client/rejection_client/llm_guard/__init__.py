"""Scanners for LLM Guard that ask the server: https://llm-guard.com without its models in your process.

They are the scanners of LLM Guard that are sequence classifiers, under its own names, in `input_scanners` and
`output_scanners`; they take a client in place of a model, and work without LLM Guard too:

    scanner = NoRefusal(RejectionClient("127.0.0.1:8001"))
    output, is_valid, risk_score = scanner.scan(prompt, output)

BanTopics is not among them: it is a zero-shot classifier, whose labels come with the text, and these are not served.
"""
