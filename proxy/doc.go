// Package proxy is the data path of prefixproxy: it takes StatsD and Carbon
// plaintext lines from local applications, rewrites their leading node to the
// name that the host holds, and forwards them.
//
// A byte goes through the files in this order:
//
//	proxy.go      New, Bind, Run: what is started, and in which order it ends
//	config.go     Config and its checks; address.go: the notation of sockets
//	listen.go     bound sockets: UDP, TCP, unix
//	socket.go     sockets that the runtime does not poll; socket_*.go: the poller
//	datagram.go   the reader of a datagram socket; mmsg_*.go: many a system call
//	stream.go     accepting connections, and the reader of one
//	pace.go       letting input gather
//	ingest.go     cut, check and rewrite lines into a batch
//	naming.go     which claim holds, and what waits until one does
//	batch.go      whole lines of one protocol, with one owner at a time
//	queue.go      batches in memory, and the books of a protocol
//	upstream.go   the session with a server; link.go: the connection itself
//
// Beside it: reasons.go (why lines are dropped), badlines.go, status.go,
// metrics.go and telemetry.go.
//
// # The books
//
// For each protocol, in lines, whenever they are read:
//
//	received + adopted = forwarded + dropped{reason} + queued + spooled
//
// # What is not promised
//
// A Carbon line counts as forwarded when the kernel has taken it: what a peer
// that dies had not read from its kernel is lost. StatsD is sent at most once:
// what is in doubt is not sent again, and a UDP datagram may be lost on its
// way. Lines still in memory are lost with the process. The order of lines
// that need a name and of lines that need none is not kept while no name is
// held.
package proxy
