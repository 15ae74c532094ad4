"""Fetches SIZE tokens, stores each in its own transaction with psycopg 3 and 16 threads, and prints
the outcome of each token. Usage: psycopg_threads.py SIZE"""

import os
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import psycopg

THREADS = 16
INSERT = "INSERT INTO secret_tokens (data) VALUES (%s)"


def store(tokens):
    lines = []
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        cursor = connection.cursor()
        for token in tokens:
            try:
                cursor.execute(INSERT, (token,))
                lines.append(f"OK : {token}")
            except psycopg.errors.IntegrityError:
                lines.append(f"ERR: {token}")
    return lines


url = f"{os.environ['TOKEN_HOST']}?size={sys.argv[1]}"
with urllib.request.urlopen(urllib.request.Request(url, data=b"{}", method="POST")) as response:
    tokens = response.read().decode().split()
with ThreadPoolExecutor(THREADS) as pool:
    parts = [tokens[start::THREADS] for start in range(THREADS)]
    for lines in pool.map(store, parts):
        print("\n".join(lines))
