// Package inlet takes in what local applications send: it binds sockets, reads
// datagrams and streams, and hands blocks of bytes to a Handler. It owns the
// sockets, the buffers and the connections, and knows no line.
//
// The files, in the order in which a byte meets them:
//
//	inlet.go        Inlet, Handler: the door
//	bind.go         which sockets; listener.go: a bound one
//	inherited.go    sockets that a supervisor bound, and keeps
//	datagram.go     the reader of a datagram socket; packets_*.go: many a system call
//	accept.go       accepting connections; connections.go: which may be open
//	stream.go       the reader of a connection; tails.go: what it keeps until more comes
//	framing.go      streams that are cut into packets
//	coalesce.go     letting input gather
//
// # What is not promised
//
// What a socket brought is read in its order; that of two sockets is not kept. A
// connection that is ended by us is told first, and read until its peer ends it, too;
// but a peer by TCP that never looks loses what it writes next, when for more than a
// quarter of Settings.MaxConnections such (and 64) their ends are waited for.
package inlet
