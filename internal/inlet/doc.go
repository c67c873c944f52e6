// Package inlet takes in what local applications send: it binds sockets, reads
// datagrams and streams, and hands blocks of bytes to a Handler. It owns the sockets, the
// buffers and the connections; it knows nothing about lines.
//
// The files, in the order in which a byte meets them:
//
//	inlet.go        Inlet, Handler: the door
//	bind.go         which sockets; listener.go: a bound one
//	datagram.go     the reader of a datagram socket
//	accept.go       accepting connections; connections.go: how many may be open
//	stream.go       the reader of a connection; tails.go: what it keeps until more comes
//	framing.go      streams that are cut into packets
//	coalesce.go     letting input gather
//
// # What is not promised
//
// Input is read in the order in which it reached one socket; between two sockets, order is not
// kept. A peer whose connection we end is told first, and is read from until it ends the
// connection, too. But a TCP peer that never looks loses what it writes next, once we wait for too
// many of its kind: more than 64, and than a quarter of Settings.MaxConnections, in addition to the
// open ones.
package inlet
