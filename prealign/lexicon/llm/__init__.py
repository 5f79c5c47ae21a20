"""Translation of the source words by a large language model.

`prompt` says what is asked, `endpoint` asks it (pace, retries), `reply` reads the answer, `cache` keeps it, `requests`
divides words into requests, `translating` is the loop, `estimate` tells the price before.
"""
