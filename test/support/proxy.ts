import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface OpenProxyOptions {
  /** What a round trip takes longer, in milliseconds: half of it each way. */
  delayMs?: number
}

export interface FaultyNetwork {
  /** The target's url by way of the proxy. */
  url: string
  /** Connections made through it so far. */
  accepted(): number
  /** Cuts every connection. */
  drop(): void
  /** Refuses new connections, as a server that is down. */
  refuse(): void
  accept(): Promise<void>
  /** Holds back what the server answers, until the connection is cut. */
  stall(): void
  /** Cuts a connection when so many bytes more have been answered, and delivers these. */
  cutAfter(bytes: number): void
  close(): Promise<void>
}

/** A network between the client and a real server, which can be slow and can fail. */
export async function openProxy(
  targetUrl: string,
  { delayMs = 0 }: OpenProxyOptions = {},
): Promise<FaultyNetwork> {
  const target = new URL(targetUrl)
  const pairs = new Set<[Socket, Socket]>()
  let accepted = 0
  let stalled = false
  let remaining = Number.POSITIVE_INFINITY

  const later =
    delayMs > 0 ? (run: () => void) => setTimeout(run, delayMs / 2) : (run: () => void) => run()
  const drop = () => {
    for (const [client, upstream] of pairs) {
      client.destroy()
      upstream.destroy()
    }
  }

  const server = createServer({ noDelay: true }, (client) => {
    const upstream = connect({ host: target.hostname, port: Number(target.port), noDelay: true })
    const pair: [Socket, Socket] = [client, upstream]
    pairs.add(pair)
    accepted += 1
    client.on('data', (data) => later(() => upstream.writable && upstream.write(data)))
    upstream.on('data', (data) =>
      later(() => {
        if (stalled || !client.writable) return
        const part = data.subarray(0, remaining)
        remaining -= part.length
        client.write(part)
        if (remaining > 0) return
        remaining = Number.POSITIVE_INFINITY
        client.end()
        upstream.destroy()
      }),
    )
    for (const [socket, peer] of [pair, [upstream, client] as const]) {
      socket.on('error', () => {})
      socket.on('end', () => later(() => peer.end()))
      socket.on('close', () => {
        pairs.delete(pair)
        later(() => peer.destroy())
      })
    }
  })

  const listen = async (port: number) => {
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    return (server.address() as AddressInfo).port
  }
  const port = await listen(0)
  const url = new URL(targetUrl)
  url.host = `127.0.0.1:${port}`

  return {
    url: url.href,
    accepted: () => accepted,
    drop,
    refuse: () => server.close(),
    accept: async () => {
      await listen(port)
    },
    stall: () => {
      stalled = true
    },
    cutAfter: (bytes) => {
      remaining = bytes
    },
    close: async () => {
      drop()
      if (server.listening) server.close()
    },
  }
}
