"""Translation of the source words by a large language model.

`prompt` says what is asked, `endpoint` asks it (pace, retries), `reply` reads the answer, `cache` keeps it, `batches`
divides words into requests, `translating` is the loop, `estimate` tells the price before.
"""
