"""The oracle: an SMTP server that keeps, for every content that it took to its end, whose it was and for whom.

Runs in a process of its own, so that its books outlive whatever is killed: an arrival is written to a file before its reply leaves.
"""

import asyncio
import random
import re
import sys

KEY = re.compile(rb"^X-Crash-Key: (\S+)", re.M)
ID = re.compile(rb"\bid ([0-9A-HJKMNP-TV-Z]{26})\b")


class Connection:
    """One client. `seed` makes it slow, or gone, at times."""

    def __init__(self, reader, writer, books, random_):
        self.reader, self.writer, self.books, self.random = reader, writer, books, random_
        self.recipients = []

    async def run(self):
        try:
            await self.say("220 sink.test ESMTP")
            while line := await self.reader.readline():
                if not await self.command(line.rstrip(b"\r\n")):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.writer.close()

    async def say(self, *lines):
        self.writer.write("".join(line + "\r\n" for line in lines).encode())
        await self.writer.drain()

    async def command(self, line):
        verb = line[:4].upper()
        if verb == b"EHLO":
            await self.say("250-sink.test", "250-PIPELINING", "250-CHUNKING", "250-8BITMIME", "250 SIZE 50000000")
        elif verb == b"MAIL" or verb == b"RSET":
            self.recipients = []
            await self.say("250 ok")
        elif verb == b"RCPT":
            address = re.search(rb"<([^>]+)>", line)[1].decode()
            # Put off now and then: it has to come again, and only for those.
            if self.random.random() < 0.02:
                await self.say("450 4.2.1 later")
            else:
                self.recipients.append(address)
                await self.say("250 ok")
        elif verb == b"DATA":
            if not self.recipients:
                await self.say("554 no recipients")
                return True
            await self.say("354 go on")
            content = await self.reader.readuntil(b"\r\n.\r\n")
            return await self.take(content)
        elif verb == b"BDAT":
            content = await self.reader.readexactly(int(line.split()[1]))
            if not self.recipients:
                await self.say("554 no recipients")
                return True
            return await self.take(content)
        elif verb == b"QUIT":
            await self.say("221 bye")
            return False
        else:
            await self.say("500 what?")
        return True

    async def take(self, content):
        key, id_ = KEY.search(content)[1].decode(), ID.search(content)[1].decode()
        for recipient in self.recipients:
            self.books.write(f"{key} {id_} {recipient}\n")
        self.books.flush()
        self.recipients = []
        chance = self.random.random()
        if chance < 0.003:
            return False
        # Late at times, so that kills fall between the end of the content and its answer.
        if chance < 0.3:
            await asyncio.sleep(self.random.random() * 0.01)
        await self.say("250 2.0.0 ok: queued")
        return True


async def main(books, ports, seed):
    random_ = random.Random(seed)

    async def serve(reader, writer):
        await Connection(reader, writer, books, random_).run()
    servers = [await asyncio.start_server(serve, "127.0.0.1", 0, limit=64 << 20) for _ in range(ports)]
    print(*[server.sockets[0].getsockname()[1] for server in servers], flush=True)
    await asyncio.gather(*[server.serve_forever() for server in servers])


if __name__ == "__main__":
    with open(sys.argv[1], "a", encoding="ascii") as file:
        asyncio.run(main(file, int(sys.argv[2]), int(sys.argv[3])))
