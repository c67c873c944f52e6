// Package proxy is the data path of prefixproxy: it takes StatsD and Carbon
// plaintext lines from local applications, rewrites their leading node to the
// name that the host holds, and forwards them.
//
// A byte goes through the files in this order:
//
//	proxy.go        New, Bind, Run: what is started, and the order in which it ends
//	config.go       Config and its checks (internal/address: the notation of sockets)
//	                (internal/inlet: sockets, and who reads them)
//	handler.go      what a socket brought
//	ingest.go       cut, check and rewrite lines into a batch
//	naming.go       which claim is valid, and what waits until one is
//	batch.go        whole lines of one protocol, with one owner at a time
//	books.go        what a queue is, and the accounts of a protocol
//	statsd.go       the two ways of StatsD
//	statsdqueue.go  StatsD that is forwarded: batches in memory, for some seconds
//	pointqueue.go   StatsD that becomes points here (internal/aggregate), for Carbon
//	carbonqueue.go  Carbon: into the store (internal/store), until every destination has it
//	outlets.go      where lines are sent (internal/outlet)
//	statsdsource.go what StatsD gives an outlet (internal/outlet): now or never
//
// Beside it: reload.go (another configuration), reasons.go (why lines are
// dropped), badlines.go, ownername.go, status.go, metrics.go and telemetry.go.
//
// # The books
//
// For each protocol, in lines, whenever they are read:
//
//	received + adopted = forwarded + dropped{reason} + queued + spooled
//
// # What is not promised
//
// A Carbon line counts as forwarded when the kernel of the peer's host has acknowledged
// it and the connection has lived on for a second. What a peer had not read when it died
// is sent again as far as the replay window reaches, or, if the connection is young,
// entirely. So lines may arrive twice after a broken connection or a crash. Lines in
// memory outlive the process, but not the machine. StatsD is sent at most once: lines in
// doubt are not sent again, and UDP datagrams may get lost. While no name is held, lines
// that need none overtake those that do; while something is spooled, newer Carbon lines
// overtake it.
package proxy
